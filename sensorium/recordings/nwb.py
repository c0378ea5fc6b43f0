"""Imports recordings from Neurodata Without Borders files (https://nwb-schema.readthedocs.io) as a raw mouse.

A mapping names the places in the HDF5 file. Continuous signals are interpolated linearly at 30 Hz; a frame of the
movie is the one shown at the middle of the frame's 1/30 s. Only time stamps are held for a whole file, values are read
trial by trial. L frames, K channels, N neurons, H W pixels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from sensorium.architectures import Section
from sensorium.errors import ConfigError, DataError
from sensorium.files import atomic_folder
from sensorium.mice import FRAMES_PER_SECOND, Tier
from sensorium.pictures import fit_picture
from sensorium.recordings.raw_writer import write_meta, write_trial
from sensorium.recordings.synthetic.statistics import write_statistics

if TYPE_CHECKING:
    import h5py

Float64Array = npt.NDArray[np.float64]
_MAP = "Correct the mapping; `h5ls -r FILE` lists what the file holds."


class MovieMap(Section):
    """Where the movie is."""

    path: str
    """An ImageSeries or OpticalSeries, an IndexSeries, or a table with one row per presented frame."""
    templates: str | None = None
    """The images that an IndexSeries or a table refers to."""
    frame: str | None = None
    """Column of the table with the index of the image; null where `path` is no table."""


class SignalMap(Section):
    """Where a behavioural signal is."""

    path: str
    """A TimeSeries, such as a SpatialSeries or an EllipseSeries."""
    dataset: str = "data"
    """Its dataset with the values; `area` of an EllipseSeries for example."""
    area: bool = False
    """Whether the values are areas, converted to diameters of circles."""


class TrialsMap(Section):
    """Which intervals are trials."""

    table: str = "intervals/trials"
    start: str = "start_time"
    stop: str = "stop_time"
    group: str | None = None
    """Column whose consecutive equal values make one trial, for tables with a row per frame."""


class TierMap(Section):
    """Which trial has which tier; `train` where nothing below applies."""

    column: str | None = None
    """Column with the tier, or with a value of `values`."""
    values: dict[str, Tier] = Field(default_factory=dict)
    """Tier by value of the column."""
    repeated: Tier | None = None
    """Tier of trials whose value of the column occurs more than once, such as an identifier of the clip."""
    last: dict[Tier, float] = Field(default_factory=dict)
    """Share (0 to 1) of the trials at the end of the session, by tier, in their order."""


class NwbMap(Section):
    """Where a laboratory's files hold what a raw mouse needs."""

    frame_shape: tuple[PositiveInt, PositiveInt] = (36, 64)
    """Rows and columns of the frames that are written, pixels."""
    max_gap: PositiveFloat = 0.5
    """Longest time between two valid samples that is bridged, seconds."""
    on_gap: Literal["none", "refuse"] = "none"
    """What a longer gap does: the trial gets the tier `none`, or the file is refused."""
    movie: MovieMap
    responses: list[str] = Field(min_length=1)
    """RoiResponseSeries, one per imaging plane: fluorescence, dF/F or deconvolved events."""
    running: SignalMap | None = None
    """Running speed; null gives 0."""
    pupil_size: SignalMap | None = None
    """Pupil dilation; null gives 1."""
    pupil_position: SignalMap | None = None
    """Pupil centre (T, 2); null gives 0."""
    trials: TrialsMap = TrialsMap()
    tier: TierMap = TierMap()
    positions: list[str] | Literal["image_mask"] | None = None
    """Columns x, y and z of the PlaneSegmentation, the centroids of its masks in pixels, or null for zeros."""


def read_map(path: Path) -> NwbMap:
    """Read a mapping.

    Raises:
        ConfigError: it cannot be read, or has unknown, missing or wrong keys.
    """
    try:
        return NwbMap.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(
            f"{path}: not readable as YAML ({fault}).", "Give a mapping such as conf/nwb/lab.yaml."
        ) from None
    except ValidationError as fault:
        found = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'content'}: {one['msg']}" for one in fault.errors())
        raise ConfigError(f"{path}: {found}.", "The keys are described in docs/how-to/nwb.md.") from None


class Signal:
    """Values over time: time stamps are sorted, those that are NaN or repeated are left out."""

    def __init__(self, node: "h5py.Group", values: "h5py.Dataset", times: Float64Array) -> None:
        self._values = values
        self.width = int(np.prod(values.shape[1:]))
        if len(times) != len(values):
            raise DataError(
                f"{node.file.filename}: {node.name}: {len(times)} time stamps for {len(values)} samples.",
                "Correct the file: each sample needs its time.",
            )
        times_kept, kept = np.unique(times, return_index=True)
        sound = np.isfinite(times_kept)
        self.times, self._rows = times_kept[sound], kept[sound]
        self._scale = float(values.attrs.get("conversion", 1.0)), float(values.attrs.get("offset", 0.0))

    def read(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Samples at positions of the sorted time stamps, (len, ...)."""
        rows, inverse = np.unique(self._rows[positions], return_inverse=True)
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

    def shown(self, grid: Float64Array, max_gap: float) -> npt.NDArray[np.intp]:
        """Position (L,) of the sample that holds at each time, -1 where the last one is older than `max_gap`."""
        middle = grid + 0.5 / FRAMES_PER_SECOND
        found = np.searchsorted(self.times, middle, side="right") - 1
        old = (found < 0) | (middle - self.times[np.maximum(found, 0)] > max_gap)
        return np.where(old, -1, found)


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
    result: Float64Array = np.where(exact | (distance <= max_gap), np.interp(grid, times, values), np.nan)
    return result


class _File:
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
            parent = path.rpartition("/")[0]
            there = (
                ", ".join(self._file[parent]) if parent in self._file and hasattr(self._file[parent], "keys") else ""
            )
            hint = f"; {parent} holds: {there or 'nothing'}" if parent in self._file else ""
            raise DataError(f"{self._file.filename}: there is no {path}{hint}.", _MAP)
        return self._file[path]

    def _column(self, table: str, name: str) -> npt.NDArray[Any]:
        values = self._get(f"{table}/{name}")[()]
        return (
            np.array([v.decode() if isinstance(v, bytes) else v for v in values]) if values.dtype == object else values
        )

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
                _MAP,
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
                raise DataError(f"{self._file.filename}: movie.frame needs movie.templates.", _MAP)
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
            raise ConfigError("positions: name three columns, x, y and z.", _MAP)
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
                picture = picture @ np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
            video[..., shown == position] = fit_picture(picture, self._layout.frame_shape)[..., None]
        return video


def _centroid(mask: npt.NDArray[Any]) -> tuple[float, float, float]:
    rows, columns = np.nonzero(mask)
    return (float(columns.mean()), float(rows.mean()), 0.0) if len(rows) else (0.0, 0.0, 0.0)


def import_nwb(source: Path, target: Path, layout: NwbMap) -> list[str]:
    """Write the recordings of an NWB file, or of a folder of them, as one raw mouse.

    Args:
        source: a file, or a folder whose files *.nwb are joined in the order of their names.
        target: the mouse's folder, which must not exist.
        layout: where the files hold what.

    Returns:
        The tier of every trial.

    Raises:
        DataError: a file lacks what the mapping names, or neurons of the files differ, or the target exists.
    """
    if target.exists():
        raise DataError(f"{target}: already there.", "Choose another name, or remove the folder.")
    files = sorted(source.glob("*.nwb")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise DataError(f"{source}: no NWB file.", "Give a file, or a folder of files that end in .nwb.")
    with atomic_folder(target) as folder:
        lengths, values, coordinates = _measure(files, layout)
        tiers = assign_tiers(values, layout.tier)
        padded, trial = max(lengths), 0
        for path in files:
            with _opened(path) as opened:
                recording = _File(opened, layout)
                for start, stop, _ in recording.trials:
                    tiers[trial] = _write(folder, trial, recording.trial(start, stop), tiers[trial], padded, layout)
                    trial += 1
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
            recording = _File(opened, layout)
            if known is not None and not np.array_equal(known, recording.coordinates):
                raise DataError(f"{path}: other neurons than in {files[0].name}.", "Import each as a mouse of its own.")
            known = recording.coordinates
            lengths += [round((stop - start) * FRAMES_PER_SECOND) for start, stop, _ in recording.trials]
            values += [value for _, _, value in recording.trials]
    if not lengths or known is None:
        raise DataError(f"{files[0]}: {layout.trials.table} has no trial.", _MAP)
    return lengths, values, known


def assign_tiers(values: Sequence[str], rule: TierMap) -> list[str]:
    """Tier of every trial.

    Args:
        values: value of the tier's column, by trial.
        rule: what they mean.

    Raises:
        DataError: a value has no tier.
    """
    tiers = ["train"] * len(values)
    for trial, value in enumerate(values):
        if rule.repeated is not None:
            tiers[trial] = rule.repeated if values.count(value) > 1 else "train"
        elif rule.column is not None:
            if value not in rule.values:
                raise DataError(f"trial {trial}: no tier for {rule.column} {value!r}.", "Add it to tier.values.")
            tiers[trial] = rule.values[value]
    end = len(tiers)
    for tier, share in reversed(rule.last.items()):
        first = max(0, end - round(share * len(tiers)))
        tiers[first:end] = [tier] * (end - first)
        end = first
    return tiers


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
