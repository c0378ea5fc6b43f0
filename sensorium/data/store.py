"""A mouse's recordings as every later stage reads them: one Zarr v3 group, time-major.

The format is described in `sensorium.data.layout` and docs/reference/store.md. Opening reads metadata and the
small arrays; frames are mapped where the layout allows and read through Zarr where it was changed.
L frames of a trial, H W pixels, N neurons.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from sensorium.data.layout import ARRAYS, STATISTICS_GROUP
from sensorium.data.mapped import REBUILD, MappedArray, read_metadata
from sensorium.data.metadata import check_arrays, check_group, contradiction
from sensorium.errors import DataError
from sensorium.mice import MODALITIES, MouseSet
from sensorium.recovery import remedy

if TYPE_CHECKING:
    import zarr

Float32Array = npt.NDArray[np.float32]


class TrialArray(Protocol):
    """Time-major values of all trials, wherever they are kept: `MappedArray` on disk, `_ZarrArray` in any chunks.

    To read recordings from elsewhere, write a class like this and return it from `MouseStore._array`:

    Examples:
        >>> class InMemory:
        ...     def __init__(self, values):
        ...         self.values, self.shape, self.dtype = values, values.shape, values.dtype
        ...     def frames(self, trial, start, stop):
        ...         return self.values[trial, start:stop]
        ...     def read(self):
        ...         return self.values
        >>> array: TrialArray = InMemory(np.arange(12.0).reshape(2, 3, 2))
        >>> array.frames(trial=1, start=0, stop=2)
        array([[6., 7.],
               [8., 9.]])
    """

    shape: tuple[int, ...]
    """(trials, L, ...)."""
    dtype: np.dtype[Any]

    def frames(self, trial: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Values (stop - start, ...) of some frames of a trial."""
        ...

    def read(self) -> npt.NDArray[Any]:
        """All values."""
        ...


class _ZarrArray:
    """An array that was re-chunked or compressed: read through Zarr, checksums included."""

    def __init__(self, folder: Path) -> None:
        import zarr

        self._array = zarr.open_array(str(folder), mode="r")
        self.shape: tuple[int, ...] = self._array.shape
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)

    def frames(self, trial: int, start: int, stop: int) -> npt.NDArray[Any]:
        return np.asarray(self._array[trial, start:stop])

    def read(self) -> npt.NDArray[Any]:
        return np.asarray(self._array[...])


class MouseStore:
    """One mouse's store, read-only; cheap to open and to send to another process."""

    def __init__(self, path: Path) -> None:
        """Open a store.

        Raises:
            DataError: it is missing, no such store, of another format version, or its metadata are damaged.
        """
        if not path.is_dir():
            raise DataError(f"{path}: the store does not exist.", remedy(path, "Run `dvc repro ingest`."))
        check_group(path)
        attributes = read_metadata(path).get("attributes", {})
        check_arrays(path)
        self.path = path
        self.name: str = attributes["mouse"]
        self.mouse_set: MouseSet = attributes["set"]
        self.sources: dict[str, str] = attributes["sources"]
        """Digest of the raw files, by modality."""
        self._arrays: dict[str, TrialArray] = {}

    def __reduce__(self) -> tuple[type["MouseStore"], tuple[Path]]:
        return type(self), (self.path,)

    def _array(self, name: str) -> TrialArray:
        if name not in self._arrays:
            folder = self.path / name
            metadata = read_metadata(folder)
            try:
                accepted = MappedArray.accepts(metadata)
                self._arrays[name] = MappedArray(folder, metadata) if accepted else _ZarrArray(folder)
            except (KeyError, TypeError, ValueError, AttributeError) as fault:
                raise contradiction(folder, f"no array of Zarr ({fault!r})") from fault
        return self._arrays[name]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Valid frames (trials,) of each trial."""
        return self._array("lengths").read().astype(np.int64)

    @cached_property
    def tiers(self) -> npt.NDArray[np.str_]:
        """Tier (trials,) of each trial."""
        names = read_metadata(self.path / "tiers")["attributes"]["flag_meanings"].split()
        numbers = self._array("tiers").read()
        if numbers.max() >= len(names):
            raise contradiction(self.path / "tiers", f"flag_meanings names {len(names)} tiers")
        tiers: npt.NDArray[np.str_] = np.array(names)[numbers]
        return tiers

    @cached_property
    def labels(self) -> npt.NDArray[np.bool_]:
        """Whether each trial's (trials,) responses are data: of a labelled tier, and not withheld."""
        return self._array("labelled").read().astype(bool)

    @cached_property
    def unit_ids(self) -> npt.NDArray[np.uint32]:
        """Identifiers (N,) of the neurons."""
        return self._array("unit_ids").read()

    @cached_property
    def coordinates(self) -> Float32Array:
        """Positions (N, 3) of the neurons, micrometres."""
        return self._array("coordinates").read()

    @cached_property
    def video_hashes(self) -> npt.NDArray[np.uint64]:
        """Perceptual hash (trials,) of each trial's video."""
        return self._array("video_hash").read()

    @cached_property
    def thumbnails(self) -> npt.NDArray[np.uint8]:
        """Block means (trials, S, rows, columns) of every tenth frame, zero after the trial."""
        return self._array("thumbnails").read()

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.lengths)

    @property
    def neurons(self) -> int:
        """Number of neurons, N."""
        return len(self.unit_ids)

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns (H, W) of a frame, pixels."""
        height, width = self._array("videos").shape[2:]
        return height, width

    @property
    def frame_dtype(self) -> np.dtype[Any]:
        """uint8, or float32 where grey levels are not whole."""
        return self._array("videos").dtype

    @cached_property
    def non_negative(self) -> bool:
        """Whether no response is below zero, so that nothing is left for a relu to cut."""
        return bool(read_metadata(self.path / "responses")["attributes"]["minimum"] >= 0)

    @cached_property
    def _response_rows(self) -> npt.NDArray[np.int64]:
        """Position (trials,) of each trial in the array `responses`, -1 where it has none."""
        if self._array("responses").shape[0] == self.trials:
            return np.arange(self.trials)
        return np.where(self.labels, np.cumsum(self.labels) - 1, -1)

    def view(self, name: str, trial: int, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Frames of one trial without a copy, read-only where the file is mapped.

        Args:
            name: videos, responses, behavior, pupil_center or truth.
            trial: index of the trial.
            start: first frame.
            stop: frame after the last; the trial's length by default.

        Raises:
            DataError: the chunk file is missing or damaged.
        """
        length = int(self.lengths[trial])
        last = length if stop is None else stop
        assert 0 <= start <= last <= length, f"{self.name}: frames {start} to {last} of trial {trial}, it has {length}"
        if name != "responses":
            return self._array(name).frames(trial, start, last)
        row = int(self._response_rows[trial])
        if row < 0:
            return np.zeros((last - start, self.neurons), dtype=np.float32)
        return self._array(name).frames(row, start, last)

    def video(self, trial: int, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Frames (L, H, W) of a trial, uint8 or float32; arguments and errors as `view`."""
        return self.view("videos", trial, start, stop).copy()

    def responses(self, trial: int, start: int = 0, stop: int | None = None) -> Float32Array:
        """Responses (L, N) of a trial, zero where they are no data; arguments and errors as `view`."""
        return self.view("responses", trial, start, stop).copy()

    def states(self, trial: int, start: int = 0, stop: int | None = None) -> Float32Array:
        """Behavior and pupil centre (L, 4) of a trial; arguments and errors as `view`."""
        parts = [self.view(name, trial, start, stop) for name in ("behavior", "pupil_center")]
        return np.concatenate(parts, axis=1)

    def truth(self, trial: int) -> Float32Array | None:
        """Noiseless rate (L, N) behind a simulated trial; None for recorded mice."""
        if not (self.path / "truth").is_dir():
            return None
        return self.view("truth", trial).copy()

    def statistics(self, modality: str, name: str) -> Float32Array:
        """A statistic over the training trials, time-major: (frames, ...), with the raw files' NaN tail.

        Args:
            modality: responses, behavior or pupil_center.
            name: mean, std, min, max or median.

        Raises:
            DataError: the store has no such statistic.
        """
        path = f"{STATISTICS_GROUP}/{modality}"
        names = read_metadata(self.path / path)["attributes"]["statistics"]
        if name not in names:
            raise DataError(f"{self.path / path}: no statistic {name!r}.", f"Known: {', '.join(names)}.")
        values: Float32Array = self._array(path).read()[names.index(name)]
        return values

    def verify(self) -> None:
        """Read every chunk of every array and compare its checksum.

        Raises:
            DataError: naming the first chunk that is missing or damaged.
        """
        import zarr

        for name in [*ARRAYS, *(f"{STATISTICS_GROUP}/{modality}" for modality in MODALITIES)]:
            if (self.path / name).is_dir():
                self._array(name)
        group = zarr.open_group(str(self.path), mode="r")
        for name, member in group.members(max_depth=None):
            if isinstance(member, zarr.Array):
                _verify_array(self.path / name, member)


def common_frame(stores: Sequence[MouseStore]) -> tuple[int, int]:
    """Rows and columns (H, W) of the frames of all mice, pixels.

    Raises:
        DataError: they differ.
    """
    frame = stores[0].frame_shape
    for store in stores:
        if store.frame_shape != frame:
            raise DataError(
                f"{store.path}: frames of {store.frame_shape}, those of {stores[0].name} have {frame}.",
                "Use mice of one frame size together.",
            )
    return frame


def _verify_array(folder: Path, array: "zarr.Array[Any]") -> None:
    grid = [range(-(-size // chunk)) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    for position in itertools.product(*grid):
        path = folder / array.metadata.encode_chunk_key(position)
        if not path.is_file():
            raise DataError(f"{path}: the chunk does not exist.", remedy(path, REBUILD))
        try:
            array.get_block_selection(position)
        except (ValueError, RuntimeError, OSError) as fault:
            raise DataError(f"{path}: the chunk is damaged ({fault}).", remedy(path, REBUILD)) from fault
