"""Signals of an Experanto session at any times: linear in between, in memory of the samples asked for.

A signal with the phase shift p was sampled at the time stamps plus p (Experanto's PhaseShiftedSequenceInterpolator).
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.recordings.experanto.meta import Meta, read_timestamps
from sensorium.recordings.raw import open_array, read_array

Float64Array = npt.NDArray[np.float64]

_SNAP = 1e-4
"""Share of the sampling interval within which a time is that of a sample, whose value is then taken as it is."""


class Sequence:
    """One device's signals (samples, signals); nothing but time stamps, shifts and means stays in memory."""

    def __init__(self, folder: Path) -> None:
        """Read and check what describes the signals.

        Raises:
            DataError: a file is missing or damaged, or contradicts another.
        """
        self._meta = Meta(folder / "meta.yml")
        self._meta.choice("modality", ("sequence",))
        self.folder = folder
        self.signals = self._meta.count("n_signals", least=1)
        self._interval = 1 / self._meta.number("sampling_rate", positive=True)
        mapped = bool(self._meta.get("is_mem_mapped", False))
        self._path = folder / ("data.mem" if mapped else "data.npy")
        self._dtype = self._read_dtype() if mapped else None
        self._stamps = self._read_stamps()
        self._open()
        self._shifts = self._read_shifts()
        self._means = self._read_vector("means") if (folder / "meta" / "means.npy").exists() else None

    def _read_dtype(self) -> np.dtype[Any]:
        name = self._meta.get("dtype")
        try:
            dtype = np.dtype(str(name))
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in "iuf":
            raise DataError(
                f"{self._meta.path}: dtype: {name!r}, the type of data.mem is not known.", "Write `dtype: float32`."
            )
        return dtype

    def _read_stamps(self) -> Float64Array:
        path = self.folder / "timestamps.npy"
        stamps: Float64Array
        if path.exists():
            stamps = read_timestamps(path)
        else:
            count = self._meta.count("n_timestamps", least=1)
            stamps = np.asarray(self._meta.number("start_time") + np.arange(count) * self._interval)
        declared = self._meta.get("n_timestamps", len(stamps))
        if declared != len(stamps):
            raise DataError(
                f"{self._meta.path}: n_timestamps: {declared!r}, but timestamps.npy has {len(stamps)}.",
                "Write the number of samples.",
            )
        return stamps

    def _open(self) -> npt.NDArray[Any]:
        """Map the data anew: pages that one trial touched do not stay in memory for the next."""
        shape = (len(self._stamps), self.signals)
        if self._dtype is None:
            data = open_array(self._path)
            if data.ndim == 1:
                data = data[:, None]
            if data.shape != shape or data.dtype.kind not in "iuf":
                raise DataError(
                    f"{self._path}: {data.dtype} of shape {data.shape}, time stamps and n_signals say {shape}.",
                    "Correct meta.yml, or export the session again.",
                )
            return data
        expected = shape[0] * shape[1] * self._dtype.itemsize
        found = self._path.stat().st_size if self._path.is_file() else None
        if found != expected:
            what = "the file does not exist" if found is None else f"{found} bytes"
            raise DataError(
                f"{self._path}: {what}, {self._dtype} of shape {shape} has {expected} bytes.",
                "Correct dtype, n_timestamps and n_signals of meta.yml, or export the session again.",
            )
        mapped: npt.NDArray[Any] = np.memmap(self._path, self._dtype, "r", shape=shape)
        return mapped

    def _read_vector(self, name: str) -> Float64Array:
        path = self.folder / "meta" / f"{name}.npy"
        values = read_array(path).reshape(-1).astype(np.float64)
        if len(values) != self.signals:
            raise DataError(
                f"{path}: {len(values)} values, n_signals is {self.signals}.", "Write one value for every signal."
            )
        return values

    def _read_shifts(self) -> Float64Array:
        if not self._meta.get("phase_shift_per_signal", False):
            return np.zeros(self.signals)
        shifts = self._read_vector("phase_shifts")
        if not np.isfinite(shifts).all():
            path = self.folder / "meta" / "phase_shifts.npy"
            raise DataError(f"{path}: NaN or infinite shifts.", "Write 0 for signals without a known shift.")
        return shifts

    def covers(self, times: Float64Array) -> bool:
        """Whether all signals were sampled at these times (T,), seconds, up to one sampling interval."""
        first = self._stamps[0] + self._shifts.max() - self._interval
        last = self._stamps[-1] + self._shifts.min() + self._interval
        return bool(first - _SNAP * self._interval <= times[0] and times[-1] <= last + _SNAP * self._interval)

    def at(self, times: Float64Array) -> Float64Array:
        """Values (T, signals) at rising times (T,), seconds.

        Linear between the samples; exact at a sample; held before the first and after the last. NaN and infinite
        samples are left out: the line goes from the last sound sample to the next. A signal without a sound sample
        around these times has its mean of meta/means.npy, or 0.
        """
        if not len(times):
            return np.empty((0, self.signals))
        first = int(np.searchsorted(self._stamps, times[0] - self._shifts.max())) - 2
        last = int(np.searchsorted(self._stamps, times[-1] - self._shifts.min(), side="right")) + 2
        first = min(max(first, 0), len(self._stamps) - 1)
        last = max(min(last, len(self._stamps)), first + 1)
        stamps = np.asarray(self._stamps[first:last], np.float64)
        data = np.array(self._open()[first:last], np.float64)
        out = np.empty((len(times), self.signals))
        sound = np.isfinite(data).all(axis=0)
        for shift in np.unique(self._shifts):
            same = self._shifts == shift
            whole = same & sound
            if whole.any():
                out[:, whole] = self._line(stamps, data[:, whole], times - shift)
            for signal in np.flatnonzero(same & ~sound).tolist():
                out[:, signal] = self._with_gaps(signal, stamps, data[:, signal], times - shift)
        return out

    def _with_gaps(self, signal: int, stamps: Float64Array, values: Float64Array, times: Float64Array) -> Float64Array:
        finite = np.isfinite(values)
        if finite.any():
            return self._line(stamps[finite], values[finite, None], times)[:, 0]
        mean = 0.0 if self._means is None else float(self._means[signal])
        return np.full(len(times), mean if np.isfinite(mean) else 0.0)

    @staticmethod
    def _line(stamps: Float64Array, values: Float64Array, times: Float64Array) -> Float64Array:
        """Interpolate values (S, n) of the stamps (S,) at the times (T,)."""
        if len(stamps) == 1:
            return np.repeat(values, len(times), axis=0)
        position = np.interp(times, stamps, np.arange(len(stamps)))  # held at both ends
        nearest = np.rint(position)
        position = np.where(np.abs(position - nearest) < _SNAP, nearest, position)
        lower = np.minimum(position.astype(np.int64), len(stamps) - 2)
        weight = (position - lower)[:, None]
        line: Float64Array = values[lower] * (1 - weight) + values[lower + 1] * weight
        return line
