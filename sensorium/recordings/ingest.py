"""Turns a raw mouse into its store: trial by trial, in bounded memory.

float64 becomes float32 and whole grey levels uint8, which loses nothing that the model sees; time
moves to the front. Equal raw files give an equal store, byte by byte.
L frames of the longest trial, H W pixels, N neurons.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.data.layout import STATISTICS_MODALITIES, THUMBNAIL_STEP
from sensorium.errors import DataError
from sensorium.files import sha256
from sensorium.mice import FRAMES_PER_SECOND, MODALITIES, STATISTICS, TIERS, MouseSet, labelled_tiers
from sensorium.recordings import phash
from sensorium.recordings.raw import BEHAVIOR_CHANNELS, RESTORE, RawMouse, read_array
from sensorium.recordings.writer import StoreWriter

_UNUSABLE = "none"  # tier of the trials of which as much is kept as is sound, be it nothing
_LARGEST = float(np.finfo(np.float32).max)
_ROWS = 64  # neurons looked at at once when searching for a response
Advance = Callable[[], None]
"""Called once per trial and modality, for the progress bar."""


def _is_withheld(raw: RawMouse, trial: int) -> bool:
    """Whether the responses are zero throughout; a file of nothing but NaN is damaged, not withheld."""
    responses = raw.open("responses", trial)
    zeros = False
    for first in range(0, len(responses), _ROWS):
        block = responses[first : first + _ROWS]
        if bool((np.nan_to_num(block, nan=0.0) != 0).any()):
            return False
        zeros = zeros or bool((block == 0).any())
    return zeros


def _sound_frames(raw: RawMouse, trial: int) -> int:
    """Frames of an unusable trial before the first that cannot be stored, 0 where there are none."""
    sound = np.ones(raw.padded_frames, dtype=bool)
    for modality in MODALITIES:
        if modality != "responses":
            values = raw.load(modality, trial)
            sound &= (np.abs(values) <= _LARGEST).reshape(-1, raw.padded_frames).all(axis=0)
    return raw.padded_frames if sound.all() else int(sound.argmin())


def _valid(raw: RawMouse, modality: str, trial: int, length: int) -> npt.NDArray[np.float64]:
    """The trial's valid frames, time last, checked for gaps and for what float32 cannot hold."""
    values = raw.load(modality, trial)[..., :length]
    if not (values.min(initial=0) >= -_LARGEST and values.max(initial=0) <= _LARGEST):  # NaN compares as false
        raise DataError(
            f"{raw.file(modality, trial)}: NaN, infinite or too large values before the end of the trial at "
            f"frame {length}.",
            RESTORE,
        )
    return values


def _time_major(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(values.astype(dtype), -1, 0))


class _FractionalLevelsError(Exception):
    """A video holds something else than whole grey levels."""


def _frames(video: npt.NDArray[np.float64], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Time-major frames (length, H, W)."""
    if np.dtype(dtype) == np.uint8:
        with np.errstate(invalid="ignore"):  # what does not fit is found by the comparison
            levels = video.astype(np.uint8)
        if not np.array_equal(levels, video):
            raise _FractionalLevelsError
        return _time_major(levels, dtype)
    return _time_major(video, dtype)


class _Ingest:
    """One run over one mouse; lengths and labels of all trials come first."""

    def __init__(self, raw: RawMouse, mouse_set: MouseSet, writer: StoreWriter, advance: Advance) -> None:
        self._raw = raw
        self._writer = writer
        self._advance = advance
        candidates = labelled_tiers(mouse_set)
        self._labelled = [tier in candidates and not _is_withheld(raw, trial) for trial, tier in enumerate(raw.tiers)]
        self._lengths = [
            _sound_frames(raw, trial) if tier == _UNUSABLE else raw.valid_length(trial, labelled)
            for trial, (tier, labelled) in enumerate(zip(raw.tiers, self._labelled, strict=True))
        ]
        self._digests: dict[str, list[str]] = {}

    def _shape(self, *tail: int) -> tuple[int, ...]:
        return self._raw.trials, max(self._lengths), *tail

    def _trials(self, modality: str) -> Iterator[npt.NDArray[np.float64]]:
        """Valid frames of every trial; none where responses are no data. Digests the files on the way."""
        self._digests[modality] = []
        for trial, length in enumerate(self._lengths):
            if modality == "responses" and not self._labelled[trial]:
                self._raw.open(modality, trial)
                yield np.empty((self._raw.neurons, 0))
            else:
                yield _valid(self._raw, modality, trial, length)
            self._digests[modality].append(sha256(self._raw.file(modality, trial)))
            self._advance()

    def sources(self) -> dict[str, str]:
        """SHA-256 per modality, over the digests of its files in the order of the trials."""
        return {
            modality: hashlib.sha256("\n".join(digests).encode()).hexdigest()
            for modality, digests in self._digests.items()
        }

    def videos(self) -> None:
        """Write the videos and their fingerprints; grey levels that are not whole make all of them float32."""
        try:
            self._videos(np.uint8)
        except _FractionalLevelsError:
            del self._writer.group["videos"]
            self._videos(np.float32)

    def _videos(self, dtype: npt.DTypeLike) -> None:
        hashes, thumbnails = [], []
        with self._writer.trials("videos", self._shape(*self._raw.frame_shape), dtype) as stream:
            for video in self._trials("videos"):
                frames = _frames(video, dtype)
                stream.append(frames)
                hashes.append(phash.video_hash(frames) if len(frames) else 0)
                thumbnails.append(phash.thumbnails(frames))
        self._writer.add("video_hash", np.array(hashes, dtype=np.uint64))
        longest = max(len(t) for t in thumbnails)
        padded = [np.pad(t, ((0, longest - len(t)), (0, 0), (0, 0))) for t in thumbnails]
        self._writer.add("thumbnails", np.stack(padded), frame_step=THUMBNAIL_STEP)

    def responses(self) -> None:
        """Write the responses that are data."""
        minimum = 0.0
        shape = (sum(self._labelled), max(self._lengths), self._raw.neurons)
        with self._writer.trials("responses", shape, np.float32) as stream:
            for labelled, values in zip(self._labelled, self._trials("responses"), strict=True):
                if labelled:
                    minimum = min(minimum, float(values.min(initial=0)))
                    stream.append(_time_major(values, np.float32))
        self._writer.group["responses"].attrs.update(minimum=minimum)

    def states(self, modality: str) -> None:
        """Write behavior or the pupil centre."""
        with self._writer.trials(modality, self._shape(2), np.float32) as stream:
            for values in self._trials(modality):
                stream.append(_time_major(values, np.float32))

    def truth(self, folder: Path) -> None:
        """Write the noiseless rates of a simulated mouse, (N, length) per file."""
        with self._writer.trials("truth", self._shape(self._raw.neurons), np.float32) as stream:
            for trial, length in enumerate(self._lengths):
                path = folder / f"{trial}.npy"
                values = read_array(path)
                if values.ndim != 2 or values.shape[0] != self._raw.neurons or values.shape[1] < length:
                    raise DataError(
                        f"{path}: shape {values.shape}, expected {(self._raw.neurons, length)}.",
                        "Remove the folder: it is optional.",
                    )
                stream.append(_time_major(values[:, :length], np.float32))

    def small_arrays(self) -> None:
        """Write what is one value or row per trial or neuron."""
        raw, writer = self._raw, self._writer
        writer.add("lengths", np.array(self._lengths, dtype=np.int64))
        codes = np.array([TIERS.index(tier) for tier in raw.tiers], dtype=np.uint8)
        writer.add("tiers", codes, flag_values=list(range(len(TIERS))), flag_meanings=" ".join(TIERS))
        writer.add("labelled", np.array(self._labelled, dtype=np.uint8))
        writer.add("unit_ids", raw.unit_ids)
        writer.add("coordinates", raw.coordinates.astype(np.float32))
        for modality in STATISTICS_MODALITIES:
            values = [_time_major(raw.statistics(modality, name), np.float32) for name in STATISTICS]
            writer.add_statistics(modality, STATISTICS, np.stack(values))


def steps(raw: RawMouse) -> int:
    """How often `ingest` calls `advance` when all grey levels are whole."""
    return raw.trials * len(MODALITIES)


def ingest(raw: RawMouse, mouse_set: MouseSet, folder: Path, truth: Path | None, advance: Advance) -> None:
    """Fill a folder with a mouse's store.

    Args:
        raw: the raw mouse.
        mouse_set: whether its test responses are withheld.
        folder: an existing, empty folder.
        truth: folder with the noiseless rate of each trial, where it is known.
        advance: called once per trial and modality.

    Raises:
        DataError: a raw file is missing or unsound; the folder is then incomplete.
    """
    attributes = {
        "mouse": raw.name,
        "set": mouse_set,
        "frames_per_second": FRAMES_PER_SECOND,
        "behavior_channels": list(BEHAVIOR_CHANNELS),
    }
    writer = StoreWriter(folder, attributes)
    run = _Ingest(raw, mouse_set, writer, advance)
    run.videos()
    run.responses()
    run.states("behavior")
    run.states("pupil_center")
    if truth is not None:
        run.truth(truth)
    run.small_arrays()
    writer.group.attrs.update(sources=run.sources())
