"""Pictures and films of any size in the form of a mouse's frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.errors import SensoriumError

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the grey level, Rec. 601."""


LARGEST_FILM = 16 << 30
"""Pixels of all frames of a film together: its file may be small, and claim any size."""


def require_size(path: Path, frames: int, size: tuple[int, int], error: type[SensoriumError]) -> None:
    """Refuse a film that no memory holds, before it is decoded.

    Raises:
        SensoriumError: of the class `error`.
    """
    if frames * size[0] * size[1] > LARGEST_FILM:
        raise error(
            f"{path}: {frames:,} frames of {size[0]} x {size[1]} pixels are more than {LARGEST_FILM >> 30} Gi pixels.",
            "Scale the film down, or cut it into parts.",
        )


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
        frames: list[NDArray[np.uint8]] = []
        for frame in film.decode(film.streams.video[0]):
            require_size(path, len(frames) + 1, (frame.width, frame.height), error)
            frames.append(frame.to_ndarray(format="gray"))
        rate = film.streams.video[0].average_rate
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
