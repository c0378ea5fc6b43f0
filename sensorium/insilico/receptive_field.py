"""Linear receptive fields: by white noise, and by the gradient of the response with respect to the movie.

N neurons, K lags, h w pixels, L frames.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy.ndimage import gaussian_filter
from scipy.optimize import curve_fit

from sensorium.errors import PredictionError
from sensorium.insilico.subject import GREY, Subject, float_array
from sensorium.seeding import generator

Float64Array = NDArray[np.float64]

LAGS = 10
"""Frames into the past that a receptive field reaches: a third of a second."""
FRAMES = 60
_SETTLED = 25  # frames before this one are not used: the first windows have seen too little
_CONTRAST = 60.0  # standard deviation of the noise, grey levels
_SMOOTHING = 1.0  # pixels, of the energy before a centre is fitted


def noise_movie(seed: int, number: int, shape: tuple[int, int], block: int) -> torch.Tensor:
    """White noise (L, h, w): squares of normal grey levels, their grid displaced in every frame.

    The displacement makes the average stimulus around a pixel symmetric, so that centres are not drawn to a grid.

    Args:
        seed: of the experiment.
        number: of the movie.
        shape: h and w.
        block: side of a square, pixels.
    """
    rng = generator(seed, "white noise", number)
    rows, columns = (size // block + 2 for size in shape)
    values = rng.standard_normal((FRAMES, rows, columns))
    whole = values.repeat(block, axis=1).repeat(block, axis=2)
    shifts = rng.integers(0, block, (FRAMES, 2))
    frames = [frame[y : y + shape[0], x : x + shape[1]] for frame, (y, x) in zip(whole, shifts, strict=True)]
    return torch.from_numpy(np.clip(GREY + _CONTRAST * np.stack(frames), 0, 255).astype(np.float32))


def by_noise(subject: Subject, shape: tuple[int, int], seed: int, movies: int, batch: int = 8) -> Float64Array:
    """Response-weighted average (N, K, h, w) of white noise, the reverse correlation of analogue responses.

    The average is the linear receptive field up to a factor, blurred by the noise's square (Chichilnisky 2001,
    https://doi.org/10.1080/713663221).

    Args:
        subject: who is shown the noise.
        shape: h and w of a frame.
        seed: of the noise.
        movies: how many are shown.
        batch: of them at once.
    """
    block = max(1, shape[0] // 6)
    total = np.zeros((subject.neurons, LAGS, *shape))
    with torch.no_grad():
        for first in track(range(0, movies, batch), "White noise", transient=True):
            shown = torch.stack([noise_movie(seed, n, shape, block) for n in range(first, min(first + batch, movies))])
            responses = float_array(subject(shown))[:, :, _SETTLED:]
            responses -= responses.mean(axis=(0, 2), keepdims=True)
            centred = shown.numpy().astype(np.float64) - GREY
            for lag in range(LAGS):
                past = centred[:, _SETTLED - lag : FRAMES - lag]
                total[:, lag] += np.einsum("bnl,blhw->nhw", responses, past, optimize=True)
    return total / (movies * (FRAMES - _SETTLED))


def by_gradient(
    subject: Subject, shape: tuple[int, int], seed: int, neurons: Sequence[int], movies: int, batch: int = 8
) -> Float64Array:
    """Gradients of single responses with respect to the K last frames of noise: (movies, n, K, h, w).

    The mean over movies is the linear receptive field; the mean square also shows what a complex cell sees, whose
    gradient changes its sign with the phase.

    Args:
        subject: differentiable.
        shape: h and w of a frame.
        seed: of the noise.
        neurons: indices of the n neurons.
        movies: how many points in the space of movies.
        batch: neurons at once.

    Raises:
        PredictionError: the gradient is not finite.
    """
    block = max(1, shape[0] // 6)
    found = np.zeros((movies, len(neurons), LAGS, *shape))
    frame = FRAMES - _SETTLED
    for number in track(range(movies), "Gradients", transient=True):
        movie = noise_movie(seed, number, shape, block)
        for first in range(0, len(neurons), batch):
            chosen = list(neurons[first : first + batch])
            shown = movie.expand(len(chosen), *movie.shape).clone().requires_grad_()
            responses = subject(shown)[torch.arange(len(chosen)), chosen, frame]
            (gradient,) = torch.autograd.grad(responses.sum(), shown)
            if not gradient.isfinite().all():
                raise PredictionError("The gradient of the response is not finite.", "Train the model again.")
            past = gradient[:, frame - LAGS + 1 : frame + 1].flip(1)
            found[number, first : first + len(chosen)] = float_array(past)
    return found


def _gaussian(places: Float64Array, top: float, row: float, column: float, sigma: float, base: float) -> Float64Array:
    y, x = places
    values: Float64Array = base + top * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma * sigma))
    return values


def locate(energy: Float64Array) -> dict[str, float]:
    """Centre and size of a map (h, w) of squared sensitivity.

    A circular Gaussian is fitted to the map, smoothed by one pixel. Where the fit fails the centre is that of mass of
    what lies above half of the maximum.

    Returns:
        `row`, `column` (pixels from 0), `sigma` (pixels, of the sensitivity, hence root 2 times that of its square).
        All NaN for a map of zeros: a dead neuron.
    """
    nothing = dict.fromkeys(("row", "column", "sigma"), np.nan)
    if not energy.max() > 0:
        return nothing
    smooth = gaussian_filter(energy / energy.max(), _SMOOTHING, mode="nearest")
    places = np.mgrid[: energy.shape[0], : energy.shape[1]].reshape(2, -1).astype(np.float64)
    weights = np.where(smooth >= smooth.max() / 2, smooth, 0).ravel()
    start = (places * weights).sum(axis=1) / weights.sum()
    low, high = [0, -2, -2, 0.5, -0.5], [4, energy.shape[0] + 1, energy.shape[1] + 1, energy.shape[1], 0.5]
    guess = [smooth.max(), *start, energy.shape[0] / 6, 0.0]
    try:
        fitted, _ = curve_fit(_gaussian, places, smooth.ravel(), guess, bounds=(low, high))
    except RuntimeError:  # no convergence
        return nothing | {"row": float(start[0]), "column": float(start[1])}
    return {"row": float(fitted[1]), "column": float(fitted[2]), "sigma": float(fitted[3] * np.sqrt(2))}


def summarise(fields: dict[str, Float64Array]) -> pd.DataFrame:
    """Centre and size of each neuron's receptive field by each method.

    Args:
        fields: method to maps of energy (n, h, w).

    Returns:
        Columns `neuron` (position in the maps), `method`, `row`, `column`, `sigma`.
    """
    rows = [
        {"neuron": neuron, "method": method, **locate(energy)}
        for method, maps in fields.items()
        for neuron, energy in enumerate(maps)
    ]
    return pd.DataFrame(rows)


def energy(field: Float64Array) -> Float64Array:
    """Squared sensitivity summed over lags: (n, K, h, w) to (n, h, w)."""
    squared: Float64Array = (field * field).sum(axis=1)
    return squared
