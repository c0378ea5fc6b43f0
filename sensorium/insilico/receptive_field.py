"""Receptive fields: by white noise, and by the gradient of the response with respect to the movie.

n neurons, M movies, K lags, L frames, h w pixels, C components.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.optimize import least_squares

from sensorium.gratings import GREY
from sensorium.insilico.session import Advance, Outcome
from sensorium.insilico.subject import Subject, float_array
from sensorium.seeding import generator

Float64Array = NDArray[np.float64]

LAGS = 10
"""Frames into the past that a receptive field reaches: a third of a second."""
FRAMES = 60
"""Of a movie of the response-weighted average."""
_SETTLED = 25  # frames before this one are not used: the first windows have seen too little
_MORE = 5
"""Frames by which the movies of the gradients are longer than the shortest that can be shown: few windows see them,
and these have seen the past of the frame that is looked at."""
_CONTRAST = 60.0  # standard deviation of the noise, grey levels
_MOVIES = 8  # shown at once
_COMPONENTS = 3
"""Components of the gradients to which an envelope is fitted: luminance, and two phases of a grating."""
_ORIENTATIONS, _FREQUENCIES, _SIZES = 8, (0.6, 1.2), (0.15, 0.3)
"""Starts of the fit: number of orientations; cycles and standard deviations in frame heights."""
_STARTS = 2
_NEGLIGIBLE = 1e-12
"""Norm of a field below which a neuron does not see anything, in responses per grey level."""


def noise_movie(seed: int, number: int, shape: tuple[int, int], block: int, length: int) -> torch.Tensor:
    """White noise (L, h, w): squares of normal grey levels, their grid displaced in every frame.

    With the displacement the correlation of two pixels depends on their distance alone, see `correlation`.

    Args:
        seed: of the experiment.
        number: of the movie.
        shape: h and w.
        block: side of a square, pixels.
        length: L.
    """
    rng = generator(seed, "white noise", number)
    rows, columns = (size // block + 2 for size in shape)
    values = rng.standard_normal((length, rows, columns))
    whole = values.repeat(block, axis=1).repeat(block, axis=2)
    shifts = rng.integers(0, block, (length, 2))
    frames = [frame[y : y + shape[0], x : x + shape[1]] for frame, (y, x) in zip(whole, shifts, strict=True)]
    return torch.from_numpy(np.clip(GREY + _CONTRAST * np.stack(frames), 0, 255).astype(np.float32))


def block_size(shape: tuple[int, int]) -> int:
    """Side of a square of the noise: a sixth of the frame's height, pixels."""
    return max(1, shape[0] // 6)


def correlation(size: int, block: int) -> Float64Array:
    """Correlation (size, size) of the noise between the pixels of a row or a column: a triangle as wide as 2 blocks."""
    matrix: Float64Array = toeplitz(np.maximum(0, 1 - np.arange(size) / block))
    return matrix


def by_noise(subject: Subject, advance: Advance, shape: tuple[int, int], seed: int, movies: int) -> Float64Array:
    """Response-weighted average (n, K, h, w) of white noise, the reverse correlation of analogue responses.

    Its expectation is the linear receptive field, blurred by the noise's correlation, up to a factor (Chichilnisky
    2001, https://doi.org/10.1080/713663221).

    Args:
        subject: who is shown the noise.
        advance: told what share is done.
        shape: h and w of a frame.
        seed: of the noise.
        movies: how many are shown.
    """
    block = block_size(shape)
    total = np.zeros((subject.neurons, LAGS, *shape))
    with torch.no_grad():
        for first in range(0, movies, _MOVIES):
            numbers = range(first, min(first + _MOVIES, movies))
            shown = torch.stack([noise_movie(seed, number, shape, block, FRAMES) for number in numbers])
            responses = float_array(subject(shown))[:, :, _SETTLED:]
            responses -= responses.mean(axis=2, keepdims=True)
            centred = shown.numpy().astype(np.float64) - GREY
            for lag in range(LAGS):
                past = centred[:, _SETTLED - lag : FRAMES - lag]
                total[:, lag] += np.einsum("bnl,blhw->nhw", responses, past, optimize=True)
            advance(len(numbers) / movies)
    return total / (movies * (FRAMES - _SETTLED) * _CONTRAST**2)


def by_gradient(subject: Subject, advance: Advance, shape: tuple[int, int], seed: int, movies: int) -> Float64Array:
    """Gradients (n, M, K, h, w) of single responses with respect to the K last frames of white noise.

    They are blurred by the noise's correlation: models with strides take only some pixels of a frame, and the blurred
    gradient says what the noise's squares do instead. Its mean is the expectation of `by_noise` (Stein's lemma), the
    linear receptive field; the second moment also shows what a complex cell sees, whose gradient
    changes its sign with the phase.

    Args:
        subject: differentiable.
        advance: told what share is done.
        shape: h and w of a frame.
        seed: of the noise.
        movies: M, how many points in the space of movies.
    """
    found = np.zeros((subject.neurons, movies, LAGS, *shape))
    rows, columns = (correlation(size, block_size(shape)) for size in shape)
    length = max(subject.shortest, LAGS) + _MORE
    frame = length - _MORE
    for number in range(movies):
        shown = noise_movie(seed, number, shape, block_size(shape), length)[None].requires_grad_()
        responses = subject(shown)[0, :, frame]
        for neuron in range(subject.neurons):
            (gradient,) = torch.autograd.grad(responses[neuron], shown, retain_graph=neuron + 1 < subject.neurons)
            past = float_array(gradient[0, frame - LAGS + 1 : frame + 1].flip(0))
            found[neuron, number] = rows @ past @ columns
        advance(1 / movies)
    return found


def components(gradients: Float64Array, count: int = _COMPONENTS) -> tuple[Float64Array, Float64Array]:
    """The patterns that gradients consist of, and the course of time that they share.

    The gradients are projected on their common temporal kernel; the patterns are the main axes of what is left, not
    centred, each times the root of its mean square: the eigenvectors of the second moment of the gradient, which span
    what a neuron sees, be it simple or complex (Constantine, Dow & Wang 2014, https://doi.org/10.1137/130916138; the
    analogue with spikes is the spike-triggered covariance, Schwartz et al. 2006, https://doi.org/10.1167/6.4.13).

    Args:
        gradients: (M, K, h, w) of one neuron.
        count: C, how many at most.

    Returns:
        Patterns (C, h, w), the strongest first, and the kernel (K,) of norm 1, its largest value positive.
    """
    points, lags, *shape = gradients.shape
    across_time = gradients.transpose(1, 0, 2, 3).reshape(lags, -1)
    kernel = np.linalg.svd(across_time, full_matrices=False)[0][:, 0]
    kernel = kernel * np.sign(kernel[np.abs(kernel).argmax()])
    spatial = np.tensordot(gradients, kernel, axes=(1, 0)).reshape(points, -1)
    _, values, axes = np.linalg.svd(spatial / np.sqrt(points), full_matrices=False)
    return (values[:count, None] * axes[:count]).reshape(-1, *shape), kernel


def fit_envelope(maps: Float64Array, block: int = 1) -> dict[str, float]:
    """Centre and size of what one or several maps of a neuron have in common.

    A map is an envelope times a pattern: a circular Gaussian, times the sum of a constant and a grating of any phase.
    This is the Gabor function (Jones & Palmer 1987, https://doi.org/10.1152/jn.1987.58.6.1233) with a mean, so that a
    neuron that answers to luminance as well is centred on its envelope, not on the brighter flank of the two. All maps
    share envelope, orientation and frequency; the frame cuts off what lies outside of it.

    Args:
        maps: (C, h, w).
        block: side of the noise's squares where the maps are blurred by its correlation; 1 where they are not.

    Returns:
        `row`, `column` of the centre, pixels from 0; `sigma` of the envelope, pixels; `orientation` of the bars,
        degrees as in `sensorium.insilico.tuning`; `spatial_frequency`, cycles per frame height; `explained`, share of
        the maps' sum of squares. All NaN where the maps are zero.
    """
    names = ("row", "column", "sigma", "orientation", "spatial_frequency", "explained")
    power = float((maps * maps).sum())
    if power <= _NEGLIGIBLE**2:
        return dict.fromkeys(names, np.nan)
    height, width = maps.shape[1:]
    fit = _Fit(maps / np.sqrt(power), block)
    energy = (maps * maps).sum(axis=0) / power
    places = np.mgrid[:height, :width]
    middle = (places * np.where(energy >= energy.max() / 4, energy, 0)).sum(axis=(1, 2))
    middle /= np.where(energy >= energy.max() / 4, energy, 0).sum()
    angles = np.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS
    starts = [
        np.array([*middle, np.log(height * size), *(2 * np.pi * cycles / height * np.array([np.sin(a), np.cos(a)]))])
        for size, cycles, a in itertools.product(_SIZES, _FREQUENCIES, angles)
    ]
    starts.sort(key=lambda start: float(np.square(fit.residual(start)).sum()))
    limits = np.array([[-2, height + 1], [-2, width + 1], np.log([1, height]), *[[-np.pi / 2, np.pi / 2]] * 2]).T
    fitted = [least_squares(fit.residual, np.clip(start, *limits), bounds=limits) for start in starts[:_STARTS]]
    best = min(fitted, key=lambda result: float(result.cost))
    row, column, size, down, right = best.x
    return {
        "row": float(row),
        "column": float(column),
        "sigma": float(np.exp(size)),
        "orientation": float((np.rad2deg(np.arctan2(down, right)) + 90) % 180),
        "spatial_frequency": float(np.hypot(down, right) * height / (2 * np.pi)),
        "explained": 1 - 2 * float(best.cost),
    }


class _Fit:
    """The residual of maps of norm 1 as a function of envelope and grating; the linear factors are always the best."""

    def __init__(self, maps: Float64Array, block: int) -> None:
        self._maps = maps.reshape(len(maps), -1).T  # (P, C)
        shape = maps.shape[1:]
        self._rows, self._columns = np.arange(shape[0], dtype=float), np.arange(shape[1], dtype=float)
        self._blur = None if block == 1 else tuple(correlation(size, block) for size in shape)

    def residual(self, parameters: Float64Array) -> Float64Array:
        """What (P * C,) is left of the maps for row, column, log sigma, and radians a pixel downwards, rightwards."""
        row, column, size, down, right = parameters
        y, x = (self._rows - row)[:, None], (self._columns - column)[None]
        envelope = np.exp(-(y * y + x * x) / (2 * np.exp(2 * size)))
        phase = down * y + right * x
        basis = np.stack([envelope, envelope * np.cos(phase), envelope * np.sin(phase)])
        if self._blur is not None:
            basis = self._blur[0] @ basis @ self._blur[1]
        columns = basis.reshape(3, -1).T
        factors, *_ = np.linalg.lstsq(columns, self._maps, rcond=1e-8)
        left: Float64Array = (self._maps - columns @ factors).ravel()
        return left


@dataclass(frozen=True)
class Noise:
    """The white noise that is shown."""

    shape: tuple[int, int]
    """h and w of a frame."""
    seed: int
    movies: int
    """Movies of the response-weighted average."""
    gradient_movies: int
    """Movies at which gradients are taken."""


def measure(subject: Subject, advance: Advance, stimuli: Noise) -> Outcome:
    """Receptive fields by both methods.

    Args:
        subject: differentiable.
        advance: told what share is done.
        stimuli: the noise.

    Returns:
        Table `summary`, by neuron and method the results of `fit_envelope`, and for the gradient `linear`, the share
        of the linear field in the gradient's power: 1 for a linear neuron, 0 for a complex cell. Arrays `noise`
        (n, h, w), the spatial part of the response-weighted average, `gradient` (n, h, w), that of the mean gradient,
        and `kernel` (n, K), the temporal part of the gradients.
    """
    shape, seed, block = stimuli.shape, stimuli.seed, block_size(stimuli.shape)
    average = by_noise(subject, lambda share: advance(0.3 * share), shape, seed, stimuli.movies)
    gradients = by_gradient(subject, lambda share: advance(0.6 * share), shape, seed, stimuli.gradient_movies)
    rows, arrays = [], []
    for neuron in range(subject.neurons):
        (blurred,), _ = components(average[neuron][None], 1)
        blurred *= np.sign(np.vdot(blurred, average[neuron].mean(0)) or 1)
        patterns, kernel = components(gradients[neuron])
        mean = np.tensordot(gradients[neuron].mean(0), kernel, axes=(0, 0))
        linear = float((mean * mean).sum() / max((patterns * patterns).sum(), _NEGLIGIBLE**2))
        rows.append({"neuron": neuron, "method": "noise", **fit_envelope(blurred[None], block)})
        rows.append({"neuron": neuron, "method": "gradient", **fit_envelope(patterns, block), "linear": linear})
        arrays.append((blurred, mean, kernel))
        advance(0.1 / subject.neurons)
    noise, gradient, kernels = (np.stack(parts) for parts in zip(*arrays, strict=True))
    return Outcome({"summary": pd.DataFrame(rows)}, {"noise": noise, "gradient": gradient, "kernel": kernels})
