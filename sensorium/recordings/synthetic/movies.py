"""What is shown: natural movies, and the parametric ones of the bonus tiers.

Natural movies are a camera that pans, zooms and jumps over photographs, with cuts between them.
The photographs are PNG files that scikit-image carries inside its package: decoding them is exact, and the files
are read directly because importing the package costs more time than a mouse takes. Sampling is integer arithmetic.

Parametric movies are the out-of-domain stimuli of the bonus tiers. The kinds follow the competition's
(arXiv:2305.19654, section 3): drifting gratings and Gabors, Gaussian dots, coherently moving random dots, directional
pink noise. Their sizes are fractions of the frame, so that any frame size shows the same thing.
L frames, H W pixels; movies are uint8 grey levels.
"""

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sensorium.errors import DataError
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.recordings.synthetic import exact

Movie = npt.NDArray[np.uint8]
"""(L, H, W) grey levels."""
_Plane = npt.NDArray[np.int64]
PHOTOGRAPHS: tuple[str, ...] = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "motorcycle_left",
)
"""Names of the photographs."""
_PYRAMID_LEVELS = 6
_SHOT_FRAMES = (40, 90)
_FIXATION_FRAMES = (12, 40)
_FIELD_OF_VIEW = (0.3, 0.85)
_SUBPIXELS = 256


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _pyramid(name: str) -> tuple[_Plane, ...]:
    """A photograph and its halvings, so that sampling does not alias; level k holds sums of 4 ** k pixels."""
    spec = importlib.util.find_spec("skimage")
    path = Path(*(spec.submodule_search_locations or [""]) if spec else ["skimage"], "data", f"{name}.png")
    try:
        with Image.open(path) as image:
            plane = np.asarray(image.convert("L"), dtype=np.int64)
    except OSError as fault:
        raise DataError(f"{path}: the photograph cannot be read ({fault}).", "Install scikit-image again.") from fault
    levels: list[_Plane] = [plane]
    while len(levels) < _PYRAMID_LEVELS and min(levels[-1].shape) >= 4:
        last = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2]
        levels.append(last[::2, ::2] + last[1::2, ::2] + last[::2, 1::2] + last[1::2, 1::2])
    return tuple(levels)


def _gaze(rng: np.random.Generator, frames: int) -> npt.NDArray[np.float64]:
    """Camera centre (frames, 2) in fractions of the photograph: fixations with drift, joined by jumps."""
    gaze = np.empty((frames, 2))
    first = 0
    while first < frames:
        last = min(frames, first + int(rng.integers(*_FIXATION_FRAMES)))
        start, drift = exact.uniform(rng, 0.2, 0.8, (2,)), 0.006 * exact.normal(rng, 2)
        gaze[first:last] = start + drift * np.arange(last - first)[:, None]
        first = last
    return gaze + np.cumsum(0.0008 * exact.normal(rng, frames, 2), axis=0)


def _taps(positions: npt.NDArray[np.float64], size: int) -> tuple[_Plane, _Plane, _Plane]:
    """Neighbours of positions along an axis, mirrored at its ends, and the weight of the second one, of 256."""
    fixed = np.rint(positions * _SUBPIXELS).astype(np.int64)
    first = fixed // _SUBPIXELS
    turn = 2 * (size - 1)
    mirrored = [np.minimum(place % turn, turn - place % turn) for place in (first, first + 1)]
    return mirrored[0], mirrored[1], fixed % _SUBPIXELS


def _sample(plane: _Plane, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], level: int) -> Movie:
    """Bilinear samples (L, H, W) at rows y (L, H) and columns x (L, W), rounded to whole grey levels."""
    top, bottom, down = (part[:, :, None] for part in _taps(y, plane.shape[0]))
    left, right, across = (part[:, None, :] for part in _taps(x, plane.shape[1]))
    upper = plane[top, left] * (_SUBPIXELS - across) + plane[top, right] * across
    lower = plane[bottom, left] * (_SUBPIXELS - across) + plane[bottom, right] * across
    whole = _SUBPIXELS * _SUBPIXELS * 4**level
    grey: Movie = ((upper * (_SUBPIXELS - down) + lower * down + whole // 2) // whole).astype(np.uint8)
    return grey


def _shot(rng: np.random.Generator, frames: int, height: int, width: int) -> Movie:
    """One uncut stretch (frames, H, W) over one photograph."""
    levels = _pyramid(PHOTOGRAPHS[int(rng.integers(len(PHOTOGRAPHS)))])
    rows, columns = levels[0].shape
    nearest, farthest = exact.uniform(rng, *_FIELD_OF_VIEW, (2,))
    pitch = np.linspace(nearest, farthest, frames) * min(rows / height, columns / width)
    level = 0
    while level + 1 < len(levels) and 2 ** (level + 1) <= pitch.min():
        level += 1
    centre = _gaze(rng, frames) * (rows, columns)
    mirror = rng.choice([-1, 1], 2)
    y = (np.arange(height) - (height - 1) / 2) * pitch[:, None] * mirror[0] + centre[:, :1]
    x = (np.arange(width) - (width - 1) / 2) * pitch[:, None] * mirror[1] + centre[:, 1:]
    return _sample(levels[level], y / 2**level, x / 2**level, level)


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
    shots: list[Movie] = []
    left = frames
    while left > 0:
        length = min(left, int(rng.integers(*_SHOT_FRAMES)))
        shots.append(_shot(rng, length, height, width))
        left -= length
    return np.concatenate(shots)


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


_Field = npt.NDArray[np.float64]
_GREY, _CONTRAST = 127.0, 110.0
_STIMULUS_FRAMES = 50
_WAVES = 24


def _grid(height: int, width: int) -> tuple[_Field, _Field]:
    """Rows and columns of the pixel centres, both in frame heights, centred."""
    y, x = np.mgrid[:height, :width]
    return (y - (height - 1) / 2) / height, (x - (width - 1) / 2) / height


def _spot(y: _Field, x: _Field, sigma: float) -> _Field:
    """A Gaussian bell around 0, of height 1."""
    return exact.decay((y * y + x * x) / (2 * sigma * sigma))


def _grating(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """A drifting sine wave (frames, H, W) in -1..1: 0.7 to 3 cycles per frame height, 0.5 to 3 Hz."""
    y, x = _grid(height, width)
    direction, cycles, speed = rng.random(), float(exact.uniform(rng, 0.7, 3)), float(exact.uniform(rng, 0.5, 3))
    travel = speed * np.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    return exact.sine(cycles * (x * exact.cosine(direction) + y * exact.sine(direction)) - travel)


def _gabor(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """A drifting sine wave under a Gaussian window at a random place."""
    y, x = _grid(height, width)
    y0, x0, sigma = (
        float(exact.uniform(rng, -0.3, 0.3)),
        float(exact.uniform(rng, -0.3, 0.3)) * width / height,
        float(exact.uniform(rng, 0.15, 0.3)),
    )
    return _grating(rng, frames, height, width) * _spot(y - y0, x - x0, sigma)


def _gaussian_dots(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """Black and white Gaussian spots that change place every quarter of a second."""
    y, x = _grid(height, width)
    hold = int(FRAMES_PER_SECOND // 4)
    field: _Field = np.zeros((frames, height, width))
    for first in range(0, frames, hold):
        for sign in (-1, 1):
            y0, x0 = float(exact.uniform(rng, -0.5, 0.5)), float(exact.uniform(rng, -0.5, 0.5)) * width / height
            field[first : first + hold] += sign * _spot(y - y0, x - x0, 0.15)
    return field


def _moving_dots(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """White spots on black, most of which move one way; they wrap around at the border."""
    y, x = _grid(height, width)
    count, aspect = 12, width / height
    direction = np.where(rng.random(count) < 0.8, rng.random(), rng.random(count))
    heading = np.stack([exact.sine(direction), exact.cosine(direction)], axis=1)
    start = rng.random((count, 2)) * (1, aspect)
    field: _Field = np.zeros((frames, height, width))
    for frame in range(frames):
        travel = 0.8 * frame / FRAMES_PER_SECOND * heading
        place = (start + travel) % (1, aspect) - (0.5, aspect / 2)
        for row, column in place:
            field[frame] += _spot(y - row, x - column, 0.06)
    return 2 * np.minimum(field, 1) - 1


def _pink_noise(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """Waves of all directions, their amplitude falling with their frequency, that drift one way together."""
    y, x = _grid(height, width)
    heading, speed = rng.random(), float(exact.uniform(rng, 0.2, 0.6))
    travel = speed * np.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    field: _Field = np.zeros((frames, height, width))
    power = 0.0
    for cycles in np.linspace(0.5, 6, _WAVES):
        direction, phase = rng.random(2)
        along = x * exact.cosine(direction) + y * exact.sine(direction) - travel * exact.cosine(direction - heading)
        field += exact.sine(cycles * along + phase) / cycles
        power += 0.5 / (cycles * cycles)
    field /= 2.5 * np.sqrt(power)
    return field


KINDS: tuple[Callable[[np.random.Generator, int, int, int], _Field], ...] = (
    _grating,
    _gaussian_dots,
    _gabor,
    _pink_noise,
    _moving_dots,
)
"""Kinds of parametric movies, in the order in which the videos of a bonus tier take turns."""


def parametric(rng: np.random.Generator, kind: int, frames: int, height: int, width: int) -> Movie:
    """A parametric movie: one kind, with new parameters every few seconds.

    Args:
        rng: where all parameters are drawn from.
        kind: which of `KINDS`, counted cyclically.
        frames: length of the movie.
        height: rows of a frame, pixels.
        width: columns of a frame, pixels.

    Returns:
        (L, H, W) whole grey levels.
    """
    render = KINDS[kind % len(KINDS)]
    lengths = [min(_STIMULUS_FRAMES, frames - first) for first in range(0, frames, _STIMULUS_FRAMES)]
    field = np.concatenate([render(rng, length, height, width) for length in lengths])
    return to_grey(_GREY + _CONTRAST * field)
