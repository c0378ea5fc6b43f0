"""Parametric movies, the out-of-domain stimuli of the bonus tiers.

The kinds follow the competition's (arXiv:2305.19654, section 3): drifting gratings and Gabors,
Gaussian dots, coherently moving random dots, directional pink noise. L frames, H W pixels; sizes
are fractions of the frame, so that any frame size shows the same thing.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sensorium.mice import FRAMES_PER_SECOND
from sensorium.recordings.synthetic.exact import cosine, decay, sine, uniform
from sensorium.recordings.synthetic.movies import Movie, to_grey

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
    return decay((y * y + x * x) / (2 * sigma * sigma))


def _grating(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """A drifting sine wave (frames, H, W) in -1..1: 0.7 to 3 cycles a frame height, 0.5 to 3 Hz."""
    y, x = _grid(height, width)
    direction, cycles, speed = rng.random(), float(uniform(rng, 0.7, 3)), float(uniform(rng, 0.5, 3))
    travel = speed * np.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    return sine(cycles * (x * cosine(direction) + y * sine(direction)) - travel)


def _gabor(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """A drifting sine wave under a Gaussian window at a random place."""
    y, x = _grid(height, width)
    y0, x0, sigma = (
        float(uniform(rng, -0.3, 0.3)),
        float(uniform(rng, -0.3, 0.3)) * width / height,
        float(uniform(rng, 0.15, 0.3)),
    )
    return _grating(rng, frames, height, width) * _spot(y - y0, x - x0, sigma)


def _gaussian_dots(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """Black and white Gaussian spots that change place every quarter of a second."""
    y, x = _grid(height, width)
    hold = int(FRAMES_PER_SECOND // 4)
    field: _Field = np.zeros((frames, height, width))
    for first in range(0, frames, hold):
        for sign in (-1, 1):
            y0, x0 = float(uniform(rng, -0.5, 0.5)), float(uniform(rng, -0.5, 0.5)) * width / height
            field[first : first + hold] += sign * _spot(y - y0, x - x0, 0.15)
    return field


def _moving_dots(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """White spots on black, most of which move one way; they wrap around at the border."""
    y, x = _grid(height, width)
    count, aspect = 12, width / height
    direction = np.where(rng.random(count) < 0.8, rng.random(), rng.random(count))
    heading = np.stack([sine(direction), cosine(direction)], axis=1)
    start = rng.random((count, 2)) * (1, aspect)
    field: _Field = np.zeros((frames, height, width))
    for frame in range(frames):
        travel = 0.8 * frame / FRAMES_PER_SECOND * heading
        place = (start + travel) % (1, aspect) - (0.5, aspect / 2)
        for row, column in place:
            field[frame] += _spot(y - row, x - column, 0.06)
    whole: _Field = 2 * np.minimum(field, 1) - 1
    return whole


def _pink_noise(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """Waves of all directions, their amplitude falling with their frequency, that drift one way together."""
    y, x = _grid(height, width)
    heading, speed = rng.random(), float(uniform(rng, 0.2, 0.6))
    travel = speed * np.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    field: _Field = np.zeros((frames, height, width))
    power = 0.0
    for cycles in np.linspace(0.5, 6, _WAVES):
        direction, phase = rng.random(2)
        along = x * cosine(direction) + y * sine(direction) - travel * cosine(direction - heading)
        field += sine(cycles * along + phase) / cycles
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
