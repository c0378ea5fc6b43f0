"""Turns NWB files into a raw mouse, trial by trial.

Continuous signals are interpolated linearly at 30 Hz; a frame of the movie is the one shown at the middle of its
1/30 s. Only time stamps are held for a whole file. L frames, N neurons, H W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import ConfigError, DataError
from sensorium.files import atomic_folder
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.pictures import LUMA, fit_picture
from sensorium.recordings.nwb.mapping import MAP_REMEDY, NwbMap, SignalMap, assign_tiers
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
        self._series = [self._signal(path) for path in layout.responses]
        self._running = self._optional(layout.running)
        self._pupil_size = self._optional(layout.pupil_size)
        self._pupil_position = self._optional(layout.pupil_position, 2)
        self._open_movie()
        self.trials = list(self._intervals())
        self.coordinates = np.concatenate([self._positions(path) for path in layout.responses])

    def _get(self, path: str) -> Any:
        if path not in self._file:
            parent = self._file.get(path.rpartition("/")[0])
            there = f"; {parent.name} holds: {', '.join(parent) or 'nothing'}" if hasattr(parent, "keys") else ""
            raise DataError(f"{self._file.filename}: there is no {path}{there}.", MAP_REMEDY)
        return self._file[path]

    def _column(self, table: str, name: str) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._get(f"{table}/{name}")[()]
        if values.dtype != object:
            return values
        return np.array([value.decode() if isinstance(value, bytes) else value for value in values])

    def _signal(self, path: str, dataset: str = "data") -> Signal:
        group, values = self._get(path), self._get(f"{path}/{dataset}")
        if "timestamps" in group:
            times = group["timestamps"][()].astype(np.float64)
        else:
            start = self._get(f"{path}/starting_time")
            times = float(start[()]) + np.arange(len(values)) / float(start.attrs["rate"])
        return Signal(group, values, times)

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

    def _open_movie(self) -> None:
        place = self._layout.movie
        self._templates = None if place.templates is None else self._get(f"{place.templates}/data")
        if place.frame is None:
            self._movie = self._signal(place.path)
            pictures = self._templates if self._templates is not None else self._get(f"{place.path}/data")
        else:
            group, starts = self._get(place.path), self._column(place.path, "start_time")
            if self._templates is None:
                raise DataError(f"{self._file.filename}: movie.frame needs movie.templates.", MAP_REMEDY)
            self._movie, pictures = Signal(group, self._get(f"{place.path}/{place.frame}"), starts), self._templates
        if pictures.ndim not in (3, 4) or 0 in pictures.shape:
            raise DataError(
                f"{self._file.filename}: {pictures.name}: shape {pictures.shape}, expected (frames, rows, columns).",
                "If the series points to an external film, write its frames into the file first.",
            )

    def _intervals(self) -> Iterator[tuple[float, float, str]]:
        """Start and stop in seconds, and the value of the tier's column, of every trial."""
        place, column = self._layout.trials, self._layout.tier.column
        starts, stops = self._column(place.table, place.start), self._column(place.table, place.stop)
        values = self._column(place.table, column) if column else np.full(len(starts), "")
        rows = np.arange(len(starts) + 1)
        if place.group is not None:
            key = self._column(place.table, place.group)
            rows = np.concatenate([[0], np.flatnonzero(key[1:] != key[:-1]) + 1, [len(key)]])
        for first, end in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True):
            start, stop = float(starts[first]), float(stops[end - 1])
            if not round((stop - start) * FRAMES_PER_SECOND) > 0:
                raise DataError(
                    f"{self._file.filename}: {place.table}: row {first} lasts from {start:g} to {stop:g} s.",
                    "Correct the table: each trial must last a frame at least.",
                )
            yield start, stop, str(values[first])

    def _positions(self, path: str) -> Float64Array:
        wanted, rois = self._layout.positions, self._get(f"{path}/rois")
        table, rows = self._file[rois.attrs["table"]], rois[()]
        if wanted is None:
            return np.zeros((len(rows), 3))
        if wanted == "image_mask":
            masks = self._get(f"{table.name.lstrip('/')}/image_mask")
            return np.array([_centroid(masks[row]) for row in rows.tolist()])
        if len(wanted) != 3:
            raise ConfigError("positions: name three columns, x, y and z.", MAP_REMEDY)
        return np.stack([self._column(table.name.lstrip("/"), name)[rows] for name in wanted], axis=1).astype(float)

    def trial(self, start: float, stop: float) -> dict[str, Float64Array]:
        """Arrays of one trial by modality, time last; NaN in gaps."""
        grid = start + np.arange(round((stop - start) * FRAMES_PER_SECOND)) / FRAMES_PER_SECOND
        gap = self._layout.max_gap

        def values(signal: Signal | None, place: SignalMap | None, neutral: float, rows: int = 1) -> Float64Array:
            if signal is None or place is None:
                return np.full((rows, len(grid)), neutral)
            found = signal.at(grid, gap)
            return 2 * np.sqrt(found / np.pi) if place.area else found

        layout = self._layout
        size = values(self._pupil_size, layout.pupil_size, 1.0)
        return {
            "videos": self._video(grid),
            "responses": np.concatenate([series.at(grid, gap) for series in self._series]),
            "behavior": np.concatenate([size, values(self._running, layout.running, 0.0)]),
            "pupil_center": values(self._pupil_position, layout.pupil_position, 0.0, 2),
        }

    def _video(self, grid: Float64Array) -> Float64Array:
        shown = self._movie.shown(grid, self._layout.max_gap)
        video = np.full((*self._layout.frame_shape, len(grid)), np.nan)
        for position in np.unique(shown[shown >= 0]).tolist():
            found = self._movie.read(np.array([position]))[0]
            if self._templates is not None:
                if not 0 <= int(found) < len(self._templates):
                    raise DataError(
                        f"{self._file.filename}: {self._layout.movie.path}: image {int(found)}, "
                        f"but there are {len(self._templates)}.",
                        "Correct movie.templates of the mapping, or the file.",
                    )
                found = self._templates[int(found)]
            picture = found.astype(np.float32)
            if picture.ndim == 3:
                picture = picture @ LUMA
            video[..., shown == position] = fit_picture(picture, self._layout.frame_shape)[..., None]
        return video


def _centroid(mask: npt.NDArray[Any]) -> tuple[float, float, float]:
    rows, columns = np.nonzero(mask)
    return (float(columns.mean()), float(rows.mean()), 0.0) if len(rows) else (0.0, 0.0, 0.0)


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
        lengths, values, coordinates = _measure(files, layout)
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
        write_meta(folder, tiers, np.arange(len(coordinates), dtype=np.uint32), coordinates)
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
    """Frames and value of the tier's column of all trials, and the positions of the neurons, which must agree."""
    lengths: list[int] = []
    values: list[str] = []
    known: Float64Array | None = None
    for path in files:
        with _opened(path) as opened:
            recording = _Recording(opened, layout)
            if known is not None and not np.array_equal(known, recording.coordinates):
                raise DataError(f"{path}: other neurons than in {files[0].name}.", "Import each as a mouse of its own.")
            known = recording.coordinates
            lengths += [round((stop - start) * FRAMES_PER_SECOND) for start, stop, _ in recording.trials]
            values += [value for _, _, value in recording.trials]
    if not lengths or known is None:
        raise DataError(f"{files[0]}: {layout.trials.table} has no trial.", MAP_REMEDY)
    return lengths, values, known


def _write(folder: Path, trial: int, arrays: dict[str, Float64Array], tier: str, padded: int, layout: NwbMap) -> str:
    """Write a trial up to its first gap; returns its tier."""
    sound = np.logical_and.reduce(
        [np.isfinite(array).reshape(-1, array.shape[-1]).all(axis=0) for array in arrays.values()]
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
