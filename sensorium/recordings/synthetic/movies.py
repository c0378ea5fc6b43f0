"""Natural movies: a camera that pans, zooms and jumps over photographs, with cuts between them.

The photographs are those that scikit-image and scikit-learn carry inside their packages; the files
are read directly because importing either package costs more time than a mouse takes.
L frames, H W pixels; movies are uint8 grey levels.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import map_coordinates

from sensorium.errors import DataError

Movie = npt.NDArray[np.uint8]
"""(L, H, W) grey levels."""

_Plane = npt.NDArray[np.float32]

PHOTOGRAPHS: tuple[tuple[str, str], ...] = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/moon.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
"""Package and file of every photograph."""

_PYRAMID_LEVELS = 6
_SHOT_FRAMES = (40, 90)
_FIXATION_FRAMES = (12, 40)
_FIELD_OF_VIEW = (0.3, 0.85)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _pyramid(package: str, name: str) -> tuple[_Plane, ...]:
    """A photograph in grey levels and its successive halvings, so that sampling does not alias."""
    spec = importlib.util.find_spec(package)
    path = Path(*(spec.submodule_search_locations or [""]), name) if spec else Path(package, name)
    try:
        with Image.open(path) as image:
            plane = np.asarray(image.convert("L"), dtype=np.float32)
    except OSError as fault:
        raise DataError(f"{path}: the photograph cannot be read ({fault}).", f"Install {package} again.") from fault
    levels: list[_Plane] = [plane]
    while len(levels) < _PYRAMID_LEVELS and min(levels[-1].shape) >= 4:
        last = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2]
        levels.append(last.reshape(last.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3), dtype=np.float32))
    return tuple(levels)


def _gaze(rng: np.random.Generator, frames: int) -> npt.NDArray[np.float64]:
    """Camera centre (frames, 2) in fractions of the photograph: fixations with drift, joined by jumps."""
    gaze = np.empty((frames, 2))
    first = 0
    while first < frames:
        last = min(frames, first + int(rng.integers(*_FIXATION_FRAMES)))
        start, drift = rng.uniform(0.2, 0.8, 2), rng.normal(0, 0.006, 2)
        gaze[first:last] = start + drift * np.arange(last - first)[:, None]
        first = last
    return gaze + np.cumsum(rng.normal(0, 0.0008, (frames, 2)), axis=0)


def _shot(rng: np.random.Generator, frames: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """One uncut stretch (frames, H, W) over one photograph."""
    levels = _pyramid(*PHOTOGRAPHS[int(rng.integers(len(PHOTOGRAPHS)))])
    rows, columns = levels[0].shape
    nearest, farthest = rng.uniform(*_FIELD_OF_VIEW, 2)
    pitch = np.geomspace(nearest, farthest, frames) * min(rows / height, columns / width)
    level = int(np.clip(np.floor(np.log2(pitch.min())), 0, len(levels) - 1))
    centre = _gaze(rng, frames) * (rows, columns)
    mirror = rng.choice([-1, 1], 2)
    y = (np.arange(height) - (height - 1) / 2) * pitch[:, None] * mirror[0] + centre[:, :1]
    x = (np.arange(width) - (width - 1) / 2) * pitch[:, None] * mirror[1] + centre[:, 1:]
    grid = np.broadcast_arrays(y[:, :, None] / 2**level, x[:, None, :] / 2**level)
    shot: npt.NDArray[np.float32] = map_coordinates(levels[level], grid, order=1, mode="mirror")
    return shot


def natural(rng: np.random.Generator, frames: int, height: int, width: int) -> Movie:
    """A natural movie: shots of one to three seconds, each over a photograph.

    Args:
        rng: where all choices are drawn from.
        frames: length of the movie.
        height: rows of a frame, pixels.
        width: columns of a frame, pixels.

    Returns:
        (L, H, W) whole grey levels.
    """
    shots: list[npt.NDArray[np.float32]] = []
    left = frames
    while left > 0:
        length = min(left, int(rng.integers(*_SHOT_FRAMES)))
        shots.append(_shot(rng, length, height, width))
        left -= length
    return to_grey(np.concatenate(shots))


def to_grey(movie: npt.NDArray[np.floating]) -> Movie:
    """Round to whole grey levels within 0..255."""
    grey: Movie = np.clip(np.rint(movie), 0, 255).astype(np.uint8)
    return grey


def present(rng: np.random.Generator, movie: Movie) -> Movie:
    """The movie as one trial records it: dropped frames and the digitisation's last grey level.

    Two presentations differ by at most one grey level but on the few dropped frames, which show
    their predecessor again; so they show the same video by the competition's rule, and their
    perceptual hash agrees unless a dropped frame is among the hashed ones.
    """
    dropped = np.flatnonzero(rng.random(len(movie)) < 0.005)
    order = np.arange(len(movie))
    order[dropped] = np.maximum(dropped - 1, 0)
    flicker = rng.random(movie.shape, dtype=np.float32)
    step = (flicker < 0.001).astype(np.int16) - (flicker > 0.999)
    seen: Movie = np.clip(movie[order] + step, 0, 255).astype(np.uint8)
    return seen
