"""Turns NWB files into a raw mouse, trial by trial.

Continuous signals are interpolated linearly at 30 Hz; a frame of the movie is the one shown at the middle of its
1/30 s. Only time stamps are held for a whole file. L frames, N neurons, H W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import ConfigError, DataError
from sensorium.files import atomic_folder
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.recordings.nwb.groups import child, expand, find, read_column, times_of
from sensorium.recordings.nwb.mapping import MAP_REMEDY, NwbMap, SignalMap, assign_tiers
from sensorium.recordings.nwb.movie import Movie
from sensorium.recordings.nwb.signals import Float64Array, Signal
from sensorium.recordings.raw_writer import write_meta, write_trial
from sensorium.recordings.statistics import write_statistics

if TYPE_CHECKING:
    import h5py


class _Recording:
    """One open NWB file, seen through a mapping."""

    def __init__(self, opened: "h5py.File", layout: NwbMap) -> None:
        self._file = opened
        self._layout = layout
        planes = [path for pattern in layout.responses for path in self._expand(pattern)]
        self._series = [self._signal(path) for path in planes]
        self._running = self._optional(layout.running)
        self._pupil_size = self._optional(layout.pupil_size)
        self._pupil_position = self._optional(layout.pupil_position, 2)
        self._movie = Movie(opened, self._place(layout.movie.path), layout.movie)
        self.frame_shape = layout.frame_shape or self._movie.frame_shape
        self.trials = list(self._intervals())
        self.coordinates = np.concatenate([self._positions(path) for path in planes])
        self.unit_ids = self._unit_ids(planes)

    def _expand(self, pattern: str) -> list[str]:
        """Paths that a pattern stands for, in the order of their numbers."""
        return expand(self._file, pattern)

    def _place(self, pattern: str) -> "h5py.Group":
        return find(self._file, pattern)

    def _signal(self, pattern: str, dataset: str = "data") -> Signal:
        group = self._place(pattern)
        values = child(group, dataset)
        return Signal(group, values, times_of(group, len(values)))

    def _optional(self, place: SignalMap | None, width: int = 1) -> Signal | None:
        if place is None:
            return None
        signal = self._signal(place.path, place.dataset)
        if signal.width != width:
            raise DataError(
                f"{self._file.filename}: {place.path}/{place.dataset}: {signal.width} values per sample, not {width}.",
                MAP_REMEDY,
            )
        return signal

    def _intervals(self) -> Iterator[tuple[float, float, str]]:
        """Start and stop in seconds, and the value of the tier's column, of every trial.

        Only a trial that the table itself calls unusable may be empty.
        """
        place, column = self._layout.trials, self._layout.tier.column
        table = self._place(place.table)
        starts = read_column(table, place.start).astype(np.float64)
        stops = starts + _usual_step(starts) if place.stop is None else read_column(table, place.stop)
        values = read_column(table, column) if column else np.full(len(starts), "")
        kept = np.full(len(starts), True)
        for name, wanted in place.where.items():
            kept &= read_column(table, name).astype(str) == wanted
        key = np.arange(len(starts))
        if place.group is not None or place.restart is not None:
            key = read_column(table, str(place.group or place.restart))
        starts, stops, values, key = starts[kept], stops[kept], values[kept], key[kept]
        ends = key[1:] < key[:-1] if place.restart is not None else key[1:] != key[:-1]
        rows = np.concatenate([[0], np.flatnonzero(ends) + 1, [len(key)]]) if len(key) else np.zeros(1, int)
        for first, end in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True):
            start, stop = float(starts[first]), float(stops[end - 1])
            unusable = self._layout.tier.values.get(str(values[first])) == "none" and start <= stop
            if not unusable and not round((stop - start) * FRAMES_PER_SECOND) > 0:
                raise DataError(
                    f"{self._file.filename}: {place.table}: row {first} lasts from {start:g} to {stop:g} s.",
                    "Correct the table: each trial must last a frame at least.",
                )
            yield from _parts(start, stop, str(values[first]), place.longest, self._layout.tier.repeated is not None)

    def _rois(self, path: str) -> tuple["h5py.Group", npt.NDArray[np.intp]]:
        """The PlaneSegmentation of a series, and the row of each neuron in it."""
        rois = child(self._file[path], "rois")
        return self._file[rois.attrs["table"]], rois[()]

    def _positions(self, path: str) -> Float64Array:
        wanted, (table, rows) = self._layout.positions, self._rois(path)
        if wanted is None:
            return np.zeros((len(rows), 3))
        if wanted == "image_mask":
            masks = child(table, "image_mask")
            return np.array([_centroid(masks[row]) for row in rows.tolist()])
        if wanted == "pixel_mask":
            pixels, ends = child(table, "pixel_mask"), child(table, "pixel_mask_index")[()].tolist()
            return np.array([_pixel_centroid(pixels, ends[row - 1] if row else 0, ends[row]) for row in rows.tolist()])
        if len(wanted) != 3:
            raise ConfigError("positions: name three columns, x, y and z.", MAP_REMEDY)
        return np.stack([read_column(table, name)[rows] for name in wanted], axis=1).astype(float)

    def _unit_ids(self, planes: Sequence[str]) -> npt.NDArray[np.uint32]:
        if self._layout.unit_ids is None:
            return np.arange(len(self.coordinates), dtype=np.uint32)
        found = [read_column(table, self._layout.unit_ids)[rows] for table, rows in map(self._rois, planes)]
        return np.concatenate(found).astype(np.uint32)

    def trial(self, start: float, stop: float) -> dict[str, Float64Array]:
        """Arrays of one trial by modality, time last; NaN in gaps."""
        frames = round((stop - start) * FRAMES_PER_SECOND)
        grid = start + np.arange(max(1, frames)) / FRAMES_PER_SECOND
        gap = self._layout.max_gap

        def values(signal: Signal | None, place: SignalMap | None, neutral: float, rows: int = 1) -> Float64Array:
            if signal is None or place is None:
                return np.full((rows, len(grid)), neutral)
            found = signal.at(grid, gap)
            return place.scale * (2 * np.sqrt(found / np.pi) if place.area else found)

        layout = self._layout
        size = values(self._pupil_size, layout.pupil_size, 1.0)
        arrays = {
            "videos": self._movie.video(grid, gap, self.frame_shape),
            "responses": np.concatenate([series.at(grid, gap) for series in self._series]),
            "behavior": np.concatenate([size, values(self._running, layout.running, 0.0)]),
            "pupil_center": values(self._pupil_position, layout.pupil_position, 0.0, 2),
        }
        return {name: array[..., :frames] for name, array in arrays.items()}


def _usual_step(starts: Float64Array) -> float:
    return float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0


def _parts(
    start: float, stop: float, value: str, longest: float | None, numbered: bool
) -> Iterator[tuple[float, float, str]]:
    """Cut a trial into equal parts of at most `longest` seconds; parts of equal clips are told apart by a number."""
    count = 1 if longest is None else max(1, ceil((stop - start) / longest - 1e-6))
    for part in range(count):
        length = (stop - start) / count
        name = f"{value}, part {part}" if numbered and count > 1 else value
        yield start + part * length, start + (part + 1) * length, name


def _centroid(mask: npt.NDArray[Any]) -> tuple[float, float, float]:
    rows, columns = np.nonzero(mask)
    return (float(columns.mean()), float(rows.mean()), 0.0) if len(rows) else (0.0, 0.0, 0.0)


def _pixel_centroid(pixels: "h5py.Dataset", first: int, end: int) -> tuple[float, float, float]:
    mask = pixels[first:end]
    return (float(mask["x"].mean()), float(mask["y"].mean()), 0.0) if len(mask) else (0.0, 0.0, 0.0)


def import_nwb(source: Path, target: Path, layout: NwbMap, advance: Callable[[int], None]) -> list[str]:
    """Write the recordings of an NWB file, or of a folder of them, as one raw mouse.

    Args:
        source: a file, or a folder whose files *.nwb are joined in the order of their names.
        target: the mouse's folder, which does not exist.
        layout: where the files hold what.
        advance: called once per trial with the number of trials.

    Returns:
        The tier of every trial.

    Raises:
        DataError: a file lacks what the mapping names, or neurons of the files differ.
    """
    files = sorted(source.glob("*.nwb")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise DataError(f"{source}: no NWB file.", "Give a file, or a folder of files that end in .nwb.")
    with atomic_folder(target) as folder:
        lengths, values, neurons = _measure(files, layout)
        tiers = assign_tiers(values, layout.tier)
        padded, trial = max(lengths), 0
        for path in files:
            with _opened(path) as opened:
                recording = _Recording(opened, layout)
                for start, stop, _ in recording.trials:
                    tiers[trial] = _write(folder, trial, recording.trial(start, stop), tiers[trial], padded, layout)
                    trial += 1
                    advance(len(tiers))
        train = [index for index, tier in enumerate(tiers) if tier == "train"]
        if not train:
            raise DataError(
                f"{source}: no usable trial of the tier train.", "Correct `tier` or `max_gap` of the mapping."
            )
        write_statistics(folder, train)
        write_meta(folder, tiers, neurons[:, 3].astype(np.uint32), neurons[:, :3])
    return tiers


def _opened(path: Path) -> "h5py.File":
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"{path}: NWB files are read with h5py, which is not installed.", "Type `pip install sensorium[nwb]`."
        ) from None
    try:
        return h5py.File(path, "r")
    except OSError as fault:
        raise DataError(f"{path}: not a readable NWB file ({fault}).", "Give a file in HDF5 format.") from fault


def _measure(files: Sequence[Path], layout: NwbMap) -> tuple[list[int], list[str], Float64Array]:
    """Frames and value of the tier's column of all trials; position and identifier (N, 4) of the neurons."""
    lengths: list[int] = []
    values: list[str] = []
    known: Float64Array | None = None
    for path in files:
        with _opened(path) as opened:
            recording = _Recording(opened, layout)
            found = np.column_stack([recording.coordinates, recording.unit_ids])
            if known is not None and not np.array_equal(known, found):
                raise DataError(f"{path}: other neurons than in {files[0].name}.", "Import each as a mouse of its own.")
            known = found
            lengths += [round((stop - start) * FRAMES_PER_SECOND) for start, stop, _ in recording.trials]
            values += [value for _, _, value in recording.trials]
    if not lengths or known is None:
        raise DataError(f"{files[0]}: {layout.trials.table} has no trial.", MAP_REMEDY)
    return lengths, values, known


def _write(folder: Path, trial: int, arrays: dict[str, Float64Array], tier: str, padded: int, layout: NwbMap) -> str:
    """Write a trial up to its first gap; returns its tier."""
    sound = np.logical_and.reduce(
        [np.isfinite(array).all(axis=tuple(range(array.ndim - 1))) for array in arrays.values()]
    )
    if not sound.all():
        lost = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if layout.on_gap == "refuse":
            raise DataError(
                f"trial {trial}: a gap of more than {layout.max_gap:g} s in {', '.join(lost)}.",
                "Raise max_gap, or set `on_gap: none` to mark the trial unusable.",
            )
        tier, length = "none", int(sound.argmin())
        arrays = {name: array[..., :length] for name, array in arrays.items()}
    write_trial(folder, trial, arrays, padded)
    return tier
