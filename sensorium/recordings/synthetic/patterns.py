"""Parametric movies, the out-of-domain stimuli of the bonus tiers.

The kinds follow the competition's (arXiv:2305.19654, section 3): drifting gratings and Gabors,
Gaussian dots, coherently moving random dots, directional pink noise. L frames, H W pixels; sizes
are fractions of the frame, so that any frame size shows the same thing.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sensorium.mice import FRAMES_PER_SECOND
from sensorium.recordings.synthetic.movies import Movie, to_grey

_Field = npt.NDArray[np.float64]
_GREY, _CONTRAST = 127.0, 110.0
_STIMULUS_FRAMES = 50


def _grid(height: int, width: int) -> tuple[_Field, _Field]:
    """Rows and columns of the pixel centres, both in frame heights, centred."""
    y, x = np.mgrid[:height, :width]
    return (y - (height - 1) / 2) / height, (x - (width - 1) / 2) / height


def _grating(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """A drifting sine wave (frames, H, W) in -1..1: 0.7 to 3 cycles a frame height, 0.5 to 3 Hz."""
    y, x = _grid(height, width)
    direction, cycles, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 3), rng.uniform(0.5, 3)
    travel = speed * np.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    wave: _Field = np.sin(2 * np.pi * (cycles * (x * np.cos(direction) + y * np.sin(direction)) - travel))
    return wave


def _gabor(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """A drifting sine wave under a Gaussian window at a random place."""
    y, x = _grid(height, width)
    y0, x0, sigma = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3) * width / height, rng.uniform(0.15, 0.3)
    window = np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * sigma**2))
    return _grating(rng, frames, height, width) * window


def _gaussian_dots(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """Black and white Gaussian spots that change place every quarter of a second."""
    y, x = _grid(height, width)
    hold = int(FRAMES_PER_SECOND // 4)
    field: _Field = np.zeros((frames, height, width))
    for first in range(0, frames, hold):
        for sign in (-1, 1):
            y0, x0 = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5) * width / height
            field[first : first + hold] += sign * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * 0.15**2))
    return field


def _moving_dots(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """White spots on black, most of which move one way; they wrap around at the border."""
    y, x = _grid(height, width)
    count, aspect = 12, width / height
    direction = np.where(rng.random(count) < 0.8, rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi, count))
    start = rng.uniform(0, 1, (count, 2)) * (1, aspect)
    field: _Field = np.zeros((frames, height, width))
    for frame in range(frames):
        travel = 0.8 * frame / FRAMES_PER_SECOND * np.stack([np.sin(direction), np.cos(direction)], axis=1)
        place = (start + travel) % (1, aspect) - (0.5, aspect / 2)
        squared = (y[..., None] - place[:, 0]) ** 2 + (x[..., None] - place[:, 1]) ** 2
        field[frame] = np.exp(-squared / (2 * 0.06**2)).sum(axis=-1)
    whole: _Field = 2 * np.minimum(field, 1) - 1
    return whole


def _pink_noise(rng: np.random.Generator, frames: int, height: int, width: int) -> _Field:
    """Noise with a 1/f spectrum that drifts in one direction."""
    shape = (2 * height, 2 * width)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    spectrum = np.fft.rfft2(rng.normal(size=shape)) / np.maximum(frequency, 1 / shape[1])
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=shape)
    step = rng.uniform(-0.02, 0.02, 2) * height
    shifts = np.rint(np.arange(frames)[:, None] * step).astype(int)
    field: _Field = np.stack([np.roll(noise, tuple(shift), axis=(0, 1))[:height, :width] for shift in shifts])
    field /= 2.5 * noise.std()
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
