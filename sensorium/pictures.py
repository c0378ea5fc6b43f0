"""Pictures and films of any size in the form of a mouse's frames."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.errors import ConfigError, SensoriumError
from sensorium.mice import FRAMES_PER_SECOND

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the grey level, Rec. 601."""
MEMORY_VARIABLE = "SENSORIUM_MAX_VIDEO_GIB"
"""Memory that the frames of a video may take, GiB: a small file may hold any number of them."""
FRAMES_VARIABLE = "SENSORIUM_MAX_VIDEO_FRAMES"
"""Frames that a video may have at the rate of the recordings: a small file may state any duration."""

_LIMITS = {MEMORY_VARIABLE: 4.0, FRAMES_VARIABLE: 36_000.0}
_FILM_BYTES = 2
"""Of a pixel of a film: its decoded frames are copied into one array."""
_FRAME_BYTES = 256
"""What a frame takes besides its pixels."""
_SCALING_BYTES = 16
"""Of a pixel of the one frame that is being decoded or scaled."""


def require_memory(
    path: Path, frames: int, size: tuple[int, int], pixel: int, error: type[SensoriumError], *, more: bool = False
) -> None:
    """Refuse a video whose frames take too much memory, before they are decoded.

    Args:
        path: the video.
        frames: how many frames it has.
        size: their rows and columns.
        pixel: bytes that reading it takes for each pixel.
        error: class of what is raised.
        more: whether further frames may follow.

    Raises:
        SensoriumError: of the class `error`.
        ConfigError: MEMORY_VARIABLE is not a positive number.
    """
    pixels = size[0] * size[1]
    needed = (frames * (pixels * pixel + _FRAME_BYTES) + pixels * _SCALING_BYTES) / 2**30
    if needed > (limit := _limit(MEMORY_VARIABLE)):
        least = "at least " if more else ""
        raise error(
            f"{path}: {least}{frames:,} frames of {size[1]} x {size[0]} pixels need {least}{needed:.2f} GiB of memory, "
            f"the limit is {limit:g} GiB.",
            f"Scale the video down, cut it into parts, or set {MEMORY_VARIABLE} to the GiB that may be used.",
        )


def require_length(path: Path, seconds: float, error: type[SensoriumError]) -> None:
    """Refuse a video that lasts too long, before it is brought to the rate of the recordings.

    Raises:
        SensoriumError: of the class `error`.
        ConfigError: FRAMES_VARIABLE is not a positive number.
    """
    frames = seconds * FRAMES_PER_SECOND
    if frames > (limit := _limit(FRAMES_VARIABLE)):
        raise error(
            f"{path}: lasts {seconds:,.0f} s, which are {frames:,.0f} frames at {FRAMES_PER_SECOND:g} Hz; "
            f"the limit is {limit:,.0f} frames.",
            f"Correct its durations, cut it into parts, or set {FRAMES_VARIABLE} to a larger number.",
        )


def _limit(name: str) -> float:
    text = os.environ.get(name, str(_LIMITS[name]))
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ConfigError(f"{name}: {text!r} is no positive number.", f"Set a number such as {_LIMITS[name]:g}.")
    return limit


def read_film(path: Path, error: type[SensoriumError], remedy: str) -> tuple[NDArray[np.uint8], float | None]:
    """Decode a film such as .mp4.

    Args:
        path: the film.
        error: class of what is raised.
        remedy: what to do where it cannot be read.

    Returns:
        Its frames (L, rows, columns) in grey levels, and how many it shows per second, None where it does not say.

    Raises:
        SensoriumError: of the class `error`, when PyAV is not installed, or the film is damaged or too large.
    """
    with _open_film(path, error, remedy) as film:
        stream, frames = film.streams.video[0], list[NDArray[np.uint8]]()
        require_memory(path, max(stream.frames, 1), (stream.height, stream.width), _FILM_BYTES, error)
        for frame in film.decode(stream):  # it may hold more frames than it states, or state none
            size = frame.height, frame.width
            if frames and size != frames[0].shape:
                raise error(f"{path}: frames of {frames[0].shape} and of {size} pixels.", "Give frames of one size.")
            require_memory(path, len(frames) + 1, size, _FILM_BYTES, error, more=True)
            frames.append(frame.to_ndarray(format="gray"))
        rate = stream.average_rate
        return np.array(frames, np.uint8), None if rate is None else float(rate)


def film_frames(path: Path, error: type[SensoriumError], remedy: str) -> Iterator[NDArray[np.uint8]]:
    """The frames (rows, columns) of a film in grey levels, one at a time; arguments and errors as `read_film`."""
    with _open_film(path, error, remedy) as film:
        for frame in film.decode(film.streams.video[0]):
            yield frame.to_ndarray(format="gray")


def film_length(path: Path, error: type[SensoriumError], remedy: str) -> int:
    """Number of frames that a film states; arguments and errors as `read_film`."""
    with _open_film(path, error, remedy) as film:
        return int(film.streams.video[0].frames)


@contextmanager
def _open_film(path: Path, error: type[SensoriumError], remedy: str) -> Iterator[Any]:
    try:
        import av
    except ImportError:
        raise error(
            f"{path}: films are read with PyAV, which is not installed.",
            "Type `pip install sensorium[video]`, or convert the film to .npy.",
        ) from None
    try:
        with av.open(str(path)) as container:
            yield container
    except SensoriumError:
        raise
    except (av.error.FFmpegError, IndexError, ValueError) as fault:  # frames of several sizes, text that is none
        raise error(f"{path}: not a readable film ({fault}).", remedy) from fault


def fit_picture(picture: NDArray[np.float32], frame_shape: tuple[int, int]) -> NDArray[np.float32]:
    """Cut the middle of a picture to the aspect of the frames, and scale it to their size without aliasing.

    Args:
        picture: (rows, columns) of any size.
        frame_shape: rows and columns of the frames, pixels.

    Returns:
        (rows, columns) of `frame_shape`; a picture of that size is returned as it is.
    """
    picture = _crop(picture, frame_shape)
    if picture.shape == frame_shape:
        return picture
    from skimage.transform import resize

    scaled: NDArray[np.float32] = resize(picture, frame_shape, anti_aliasing=True).astype(np.float32)
    return scaled


def _crop(picture: NDArray[np.float32], frame_shape: tuple[int, int]) -> NDArray[np.float32]:
    rows, columns = picture.shape
    scale = min(rows / frame_shape[0], columns / frame_shape[1])
    height, width = max(1, round(frame_shape[0] * scale)), max(1, round(frame_shape[1] * scale))
    top, left = (rows - height) // 2, (columns - width) // 2
    return picture[top : top + height, left : left + width]
