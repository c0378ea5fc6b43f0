"""What the screen of an Experanto session showed: trials, their times, and their frames at 30 Hz."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.pictures import LUMA, fit_picture, read_film
from sensorium.recordings.experanto.meta import Meta, read_timestamps
from sensorium.recordings.raw import read_array

Float64Array = npt.NDArray[np.float64]

KINDS = ("video", "image", "blank", "invalid")
"""Modalities of a trial."""
_OFFSET = 1e-4
"""Seconds by which a frame may appear late and still counts as shown, as in Experanto's ScreenInterpolator."""
_GREY_LEVEL = 128
"""Of a blank screen that states none."""
_FILES = (".npy", ".mp4", ".png", ".jpg")


@dataclass(frozen=True)
class ScreenTrial:
    """One trial: its frames are shown from their time stamps on."""

    meta: Meta
    kind: str
    tier: str
    """As the session names it; empty where it names none."""
    size: tuple[int, int]
    stamps: Float64Array
    """(F,) time at which each stored frame appears, seconds."""
    end: float
    """When the last one disappears, seconds."""

    @property
    def times(self) -> Float64Array:
        """Times (L,) of the frames at 30 Hz, seconds."""
        if not len(self.stamps):
            return np.empty(0)
        count = max(1, round((self.end - self.stamps[0]) * FRAMES_PER_SECOND))
        times: Float64Array = self.stamps[0] + np.arange(count) / FRAMES_PER_SECOND
        return times

    def frames(self, size: tuple[int, int]) -> Float64Array:
        """What was on the screen at `times`: (L, H, W) grey levels, cut and scaled to `size`.

        Raises:
            DataError: the file of the frames is missing, damaged, of another shape, or holds NaN.
        """
        stored = self._stored()
        if stored.shape[1:] != size:
            stored = np.array([fit_picture(picture.astype(np.float32), size) for picture in stored])
        shown = np.searchsorted(self.stamps, self.times + _OFFSET, side="right") - 1
        return stored[shown].reshape(-1, *size).astype(np.float64)

    def _stored(self) -> npt.NDArray[Any]:
        """The frames (F, rows, columns) as they are on disk."""
        if self.kind in ("blank", "invalid"):
            level = self.meta.get("interleave_value", _GREY_LEVEL)
            if not isinstance(level, (int, float)) or not np.isfinite(level):
                raise DataError(f"{self.meta.path}: interleave_value: {level!r}.", "Write a grey level from 0 to 255.")
            return np.full((1, *self.size), float(level))
        path = self._file()
        array: npt.NDArray[Any] = _read(path)
        if array.ndim >= 3 and array.shape[-1] == len(LUMA):
            array = array @ LUMA
        if self.kind == "image" and array.ndim == 2:
            array = array[None]
        expected = (len(self.stamps), *self.size)
        if array.shape != expected or array.dtype.kind not in "iuf":
            raise DataError(
                f"{path}: {array.dtype} of shape {array.shape}, {self.meta.path.name} says {expected}.",
                "Correct num_frames and image_size, or export the session again.",
            )
        if not np.isfinite(array).all():
            raise DataError(f"{path}: NaN or infinite grey levels.", "Export the session again.")
        return array

    def _file(self) -> Path:
        stem = self.meta.path.parents[1] / "data" / self.meta.path.stem
        for ending in _FILES:
            if stem.with_suffix(ending).is_file():
                return stem.with_suffix(ending)
        raise DataError(
            f"{stem}: no file with one of the endings {', '.join(_FILES)}.",
            f"Restore the file, or take the trial out: `modality: invalid` in {self.meta.path.name}.",
        )


def _read(path: Path) -> npt.NDArray[Any]:
    if path.suffix == ".npy":
        return read_array(path)
    if path.suffix == ".mp4":
        return read_film(path, DataError, "Restore the file.")[0]
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError) as fault:
        raise DataError(f"{path}: not a readable picture ({fault}).", "Restore the file.") from fault


def read_screen(folder: Path) -> tuple[Meta, list[ScreenTrial]]:
    """The trials of a session in the order of their files, and the screen's meta.yml; no frame is read.

    Raises:
        DataError: a file is missing or damaged, lacks a key, or contradicts another.
    """
    meta = Meta(folder / "meta.yml")
    meta.choice("modality", ("screen",))
    duration = 1 / meta.number("frame_rate", positive=True)
    stamps = read_timestamps(folder / "timestamps.npy")
    paths = sorted(path for path in (folder / "meta").glob("*.yml") if path.stem.isdigit())
    if not paths:
        raise DataError(f"{folder / 'meta'}: no trial in it.", "Expected 00000.yml, 00001.yml and so on.")
    return meta, list(_trials(paths, stamps, duration))


def _trials(paths: list[Path], stamps: Float64Array, duration: float) -> Iterator[ScreenTrial]:
    for path in paths:
        meta = Meta(path)
        kind = meta.choice("modality", KINDS)
        first = meta.count("first_frame_idx")
        last = first + (meta.count("num_frames") if kind == "video" else 1)
        if last > len(stamps):
            raise DataError(
                f"{path}: frames {first} to {last - 1}, but timestamps.npy has {len(stamps)}.",
                "Correct first_frame_idx and num_frames.",
            )
        own = np.array(stamps[first:last], np.float64)
        following = float(stamps[last]) if last < len(stamps) else np.inf
        tier = str(meta.get("tier") or "")
        yield ScreenTrial(meta, kind, tier, meta.size("image_size"), own, _end(kind, own, following, duration))


def _end(kind: str, stamps: Float64Array, following: float, duration: float) -> float:
    """A video ends one of its frames' durations after its last; a picture stays until the next appears."""
    if not len(stamps):
        return 0.0
    if kind == "video":
        step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else duration
        return float(min(stamps[-1] + step, following))
    return float(following if np.isfinite(following) else stamps[-1] + duration)
