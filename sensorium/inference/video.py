"""Read a video of any size and rate, and bring it into the form of a mouse's recordings."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensorium.errors import PredictionError, SensoriumError
from sensorium.files import map_npy
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.pictures import LUMA, fit_picture, read_film, require_length, require_memory

_GIF_SECONDS = 0.1
"""Duration of a GIF's frame that states none, as browsers show it."""
_FORMATS = "an .npy file of shape (frames, rows, columns), a .gif, or an .mp4"

Frames = NDArray[np.float32] | NDArray[np.uint8]
"""(L, rows, columns) grey levels 0..255; films and GIFs are kept as bytes."""


@dataclass(frozen=True)
class Clip:
    """A video as it was read."""

    frames: Frames
    onsets: NDArray[np.float64]
    """(L,) time at which each frame appears, seconds."""
    seconds: float
    """Length of the clip."""


def read_clip(path: Path, frames_per_second: float | None) -> Clip:
    """Read a video in grey levels.

    Args:
        path: .npy, .gif, or a film such as .mp4.
        frames_per_second: rate of the video; None takes the file's own, for .npy that of the recordings.

    Raises:
        PredictionError: missing, damaged, of another kind, too large, too long, or with values that are no grey levels.
        ConfigError: the variable of a limit is not a positive number.
    """
    if not path.is_file():
        raise PredictionError(f"{path}: the file does not exist.", f"Give {_FORMATS}.")
    read = {".npy": _read_array, ".gif": _read_gif}.get(path.suffix.lower(), _read_film)
    frames, durations = read(path)
    if not frames.size:
        raise PredictionError(f"{path}: there is no frame in it.", f"Give {_FORMATS}.")
    if frames_per_second is not None:
        durations = np.full(len(frames), 1 / frames_per_second)
    ends = np.cumsum(durations)
    require_length(path, float(ends[-1]), PredictionError)
    return Clip(frames, ends - durations, float(ends[-1]))


def _read_array(path: Path) -> tuple[Frames, NDArray[np.float64]]:
    try:
        array = map_npy(path)
    except (ValueError, OSError) as fault:
        raise PredictionError(f"{path}: not a readable .npy file ({fault}).", f"Give {_FORMATS}.") from fault
    colours = array.ndim == 4 and array.shape[-1] == len(LUMA)
    if array.ndim != 3 + colours or array.dtype.kind not in "uif":
        raise PredictionError(f"{path}: {array.dtype} of shape {array.shape}.", f"Give {_FORMATS}.")
    count, rows, columns = array.shape[:3]
    require_memory(path, count, (rows, columns), np.float32().itemsize, PredictionError)
    frames = np.empty((count, rows, columns), np.float32)
    for index, picture in enumerate(array):
        frames[index] = picture @ LUMA if colours else picture
    if frames.size and not (frames.min() >= 0 and frames.max() <= 255):  # false for NaN as well
        raise PredictionError(
            f"{path}: values from {frames.min():g} to {frames.max():g}.", "Scale them to grey levels from 0 to 255."
        )
    return frames, np.full(len(frames), 1 / FRAMES_PER_SECOND)


def _read_gif(path: Path) -> tuple[Frames, NDArray[np.float64]]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            require_memory(path, count, (image.height, image.width), 1, PredictionError)
            frames, durations = np.empty((count, image.height, image.width), np.uint8), np.empty(count)
            for index in range(count):
                image.seek(index)
                frames[index] = np.asarray(image.convert("L"))
                durations[index] = image.info.get("duration", 0) / 1000 or _GIF_SECONDS
            return frames, durations
    except SensoriumError:
        raise
    except (
        OSError,
        EOFError,
        SyntaxError,
        ValueError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ) as fault:
        raise PredictionError(f"{path}: not a readable .gif ({fault}).", f"Give {_FORMATS}.") from fault


def _read_film(path: Path) -> tuple[Frames, NDArray[np.float64]]:
    frames, rate = read_film(path, PredictionError, f"Give {_FORMATS}.")
    return frames, np.full(len(frames), 1 / (rate or FRAMES_PER_SECOND))


def resample(clip: Clip, frame_shape: tuple[int, int]) -> NDArray[np.float32]:
    """Show a clip as the recordings' screen did: 30 frames a second, cut to their aspect, and their size.

    Each frame is what the clip shows at that moment; nothing is blended over time. The middle of the
    picture is kept where the aspect differs, and scaled without aliasing.

    Args:
        clip: any size and rate.
        frame_shape: rows and columns of the recordings, pixels.

    Returns:
        (L, rows, columns) grey levels.
    """
    moments = np.arange(max(1, round(clip.seconds * FRAMES_PER_SECOND))) / FRAMES_PER_SECOND
    shown = np.searchsorted(clip.onsets, moments + 0.5 / FRAMES_PER_SECOND, side="right") - 1
    scaled = {
        index: fit_picture(clip.frames[index].astype(np.float32), frame_shape) for index in np.unique(shown).tolist()
    }
    return np.stack([scaled[index] for index in shown.tolist()])
