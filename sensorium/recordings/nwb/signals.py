"""Values over time in an NWB file, brought to 30 Hz; only their time stamps are held. K channels, L frames."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError

if TYPE_CHECKING:
    import h5py

Float64Array = npt.NDArray[np.float64]


class Clock:
    """Times of samples: sorted, those that are NaN or repeated are left out."""

    def __init__(self, node: "h5py.Group", count: int, times: Float64Array) -> None:
        if len(times) != count:
            raise DataError(
                f"{node.file.filename}: {node.name}: {len(times)} time stamps for {count} samples.",
                "Correct the file: each sample needs its time.",
            )
        times_kept, kept = np.unique(times, return_index=True)
        sound = np.isfinite(times_kept)
        self.times, self.rows = times_kept[sound], kept[sound]
        """Times, seconds, and the row of each in the file."""

    def shown(self, moments: Float64Array, max_gap: float) -> npt.NDArray[np.intp]:
        """Position (L,) of the sample that holds at each moment, -1 where the last one is older than `max_gap`."""
        found = np.searchsorted(self.times, moments, side="right") - 1
        if not len(self.times):
            return found
        old = (found < 0) | (moments - self.times[np.maximum(found, 0)] > max_gap)
        return np.where(old, -1, found)


class Signal(Clock):
    """Values over time."""

    def __init__(self, node: "h5py.Group", values: "h5py.Dataset", times: Float64Array) -> None:
        super().__init__(node, len(values), times)
        self._values = values
        self.width = int(np.prod(values.shape[1:]))
        self._scale = float(values.attrs.get("conversion", 1.0)), float(values.attrs.get("offset", 0.0))

    def read(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Samples at positions of the sorted time stamps, (len, ...)."""
        rows, inverse = np.unique(self.rows[positions], return_inverse=True)
        if not len(rows):
            return np.zeros((0, *self._values.shape[1:]))
        dense = rows[-1] - rows[0] + 1 == len(rows)
        found: npt.NDArray[Any] = self._values[rows[0] : rows[-1] + 1] if dense else self._values[rows]
        return found[inverse]

    def at(self, grid: Float64Array, max_gap: float) -> Float64Array:
        """Linear interpolation (K, L) at the times of `grid`; NaN in gaps above `max_gap` seconds."""
        first = max(0, int(np.searchsorted(self.times, grid[0] - max_gap)) - 1)
        last = int(np.searchsorted(self.times, grid[-1] + max_gap, side="right")) + 1
        positions = np.arange(first, min(last, len(self.times)))
        samples = self.read(positions).reshape(len(positions), -1).astype(np.float64)
        samples = samples * self._scale[0] + self._scale[1]
        return np.stack([_interpolate(self.times[positions], column, grid, max_gap) for column in samples.T])


def _interpolate(times: Float64Array, values: Float64Array, grid: Float64Array, max_gap: float) -> Float64Array:
    valid = np.isfinite(values)
    times, values = times[valid], values[valid]
    if not len(times):
        return np.full(len(grid), np.nan)
    after = np.searchsorted(times, grid - 1e-9)
    left, right = times[np.maximum(after - 1, 0)], times[np.minimum(after, len(times) - 1)]
    inside = (after > 0) & (after < len(times))
    exact = np.abs(right - grid) < 1e-6
    distance = np.where(inside, right - left, np.minimum(np.abs(grid - left), np.abs(grid - right)))
    between = np.where(distance <= max_gap, np.interp(grid, times, values), np.nan)
    result: Float64Array = np.where(exact, values[np.minimum(after, len(times) - 1)], between)
    return result
