"""Simulated neurons of primary visual cortex.

A neuron adds up what its receptive field sees and what the animal does, and passes the sum through a
softplus. The visual part is a luminance (on/off) response, a simple cell and a complex cell: Gabor
filters in quadrature whose energy does not depend on the phase (Adelson & Bergen 1985,
https://doi.org/10.1364/JOSAA.2.000284). Each has the neuron's latency and biphasic temporal kernel.
Running and pupil dilation change the gain of mouse V1 (Niell & Stryker 2010,
https://doi.org/10.1016/j.neuron.2010.01.033). Responses scatter around the rate by a gamma law.

Receptive fields are wide and coarse, so that small models learn them from a handful of trials.
N neurons, L frames, P = H * W pixels, K taps of the temporal kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sensorium.recordings.synthetic.behavior import Behavior
from sensorium.recordings.synthetic.movies import Movie

_Float32 = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

COMPONENTS = ("luminance", "simple", "complex", "running", "pupil")
"""What drives a neuron."""

_SHARES = (4.0, 1.0, 2.0, 4.0, 2.5)
_MOSTLY_POSITIVE = (0.5, 0.5, 0.9, 0.8, 0.5)
_TAPS = 10
_GREY, _CONTRAST = 127.0, 60.0


@dataclass
class Population:
    """The neurons of one mouse."""

    filters: _Float32
    """(3, N, P) spatial filters: luminance, Gabor in sine and cosine phase."""
    kernel: _Float32
    """(N, K) temporal kernel, the latest frame first."""
    weights: Float64Array
    """(5, N) signed weight of each standardised component."""
    steepness: Float64Array
    """(N,) how steeply the rate rises with the drive."""
    threshold: Float64Array
    """(N,) drive at which a neuron starts to fire."""
    mean_rate: Float64Array
    """(N,) mean response over the calibration trials."""
    center: Float64Array = field(init=False)
    """(5, N) mean of each component over the calibration trials."""
    scale: Float64Array = field(init=False)
    """(5, N) standard deviation of the same."""
    gain: Float64Array = field(init=False)
    """(N,) factor that brings the mean response to `mean_rate`."""

    def _components(self, movie: Movie, behavior: Behavior) -> _Float32:
        """(5, N, L) components, not yet standardised."""
        seen = (movie.reshape(len(movie), -1).astype(np.float32) - np.float32(_GREY)) / np.float32(_CONTRAST)
        luminance, sine, cosine = (_delayed(filters @ seen.T, self.kernel) for filters in self.filters)
        shape = luminance.shape
        return np.stack(
            [
                luminance,
                sine,
                np.hypot(sine, cosine),
                np.broadcast_to(np.sqrt(behavior.speed), shape),
                np.broadcast_to(behavior.dilation, shape),
            ],
            dtype=np.float32,
            casting="same_kind",
        )

    def _excitation(self, components: _Float32) -> Float64Array:
        """(N, L) rate before the gain."""
        drive = np.einsum("cn,cnl->nl", self.weights / self.scale, components)
        drive -= (self.weights / self.scale * self.center).sum(axis=0)[:, None]
        excitation: Float64Array = np.logaddexp(0, self.steepness[:, None] * (drive - self.threshold[:, None]))
        return excitation

    def calibrate(self, trials: Sequence[tuple[Movie, Behavior]]) -> None:
        """Standardise the components over some trials, and set the gains from them; one trial at a time."""
        moments = [_moments(self._components(movie, behavior)) for movie, behavior in trials]
        self.center, squares = np.mean(moments, axis=0)
        self.scale = np.sqrt(np.maximum(squares - self.center**2, 0)) + 1e-6
        means = [self._excitation(self._components(movie, behavior)).mean(axis=1) for movie, behavior in trials]
        self.gain = self.mean_rate / np.mean(means, axis=0)

    def rate(self, movie: Movie, behavior: Behavior) -> Float64Array:
        """Noiseless rate (N, L) of one trial; `calibrate` comes first."""
        return self.gain[:, None] * self._excitation(self._components(movie, behavior))


def _moments(components: _Float32) -> Float64Array:
    """Mean and mean square (2, 5, N) over the frames."""
    return np.stack([components.mean(axis=2, dtype=np.float64), np.square(components).mean(axis=2, dtype=np.float64)])


def _delayed(linear: _Float32, kernel: _Float32) -> _Float32:
    """Causal convolution of (N, L) with (N, K); before the trial the first frame stood still."""
    taps, frames = kernel.shape[1], linear.shape[1]
    padded = np.concatenate([np.repeat(linear[:, :1], taps - 1, axis=1), linear], axis=1)
    out = np.zeros_like(linear)
    for lag in range(taps):
        out += kernel[:, lag : lag + 1] * padded[:, taps - 1 - lag : taps - 1 - lag + frames]
    return out


def _filters(rng: np.random.Generator, places: Float64Array, height: int, width: int) -> _Float32:
    """Spatial filters (3, N, P); receptive fields are a quarter to a half of the frame's height wide."""
    neurons = len(places)
    y, x = np.mgrid[:height, :width].reshape(2, 1, -1) / height
    dy, dx = y - places[:, :1], x - places[:, 1:]
    sigma = rng.uniform(0.2, 0.4, (neurons, 1))
    window = np.exp(-(dy**2 + dx**2) / (2 * sigma**2))
    angle = rng.uniform(0, np.pi, (neurons, 1))
    phase = 2 * np.pi * rng.uniform(0.6, 1.2, (neurons, 1)) * (dx * np.cos(angle) + dy * np.sin(angle))
    gabors = np.stack([window * np.sin(phase), window * np.cos(phase)])
    gabors -= window * gabors.sum(axis=2, keepdims=True) / window.sum(axis=1, keepdims=True)
    return np.concatenate([window[None] / window.sum(axis=1, keepdims=True), gabors]).astype(np.float32)


def _kernels(rng: np.random.Generator, neurons: int) -> _Float32:
    """Temporal kernels (N, K): a latency of 30 to 100 ms, a peak, and a weaker rebound."""
    lag = np.arange(_TAPS) - rng.uniform(1, 3, (neurons, 1))
    rise = np.maximum(lag, 0) / rng.uniform(1, 1.6, (neurons, 1))
    kernel = rise * np.exp(-rise) - rng.uniform(0, 0.4, (neurons, 1)) * rise**3 * np.exp(-rise) / 6
    scaled: _Float32 = (kernel / np.abs(kernel).sum(axis=1, keepdims=True)).astype(np.float32)
    return scaled


def draw(rng: np.random.Generator, coordinates: Float64Array, height: int, width: int) -> Population:
    """Draw the neurons of a mouse.

    Args:
        rng: where all is drawn from.
        coordinates: (N, 3) positions in cortex, micrometres; receptive fields follow them.
        height: rows of a frame, pixels.
        width: columns of a frame, pixels.
    """
    neurons = len(coordinates)
    spread = coordinates[:, 1::-1] / np.abs(coordinates[:, 1::-1]).max()
    places = 0.5 * np.array([1, width / height]) * (1 + 0.6 * spread) + rng.normal(0, 0.05, (neurons, 2))
    shares = rng.dirichlet(_SHARES, neurons).T
    signs = np.where(rng.random((len(COMPONENTS), neurons)) < np.array(_MOSTLY_POSITIVE)[:, None], 1, -1)
    return Population(
        filters=_filters(rng, places, height, width),
        kernel=_kernels(rng, neurons),
        weights=signs * np.sqrt(shares),
        steepness=rng.uniform(1.2, 2.0, neurons),
        threshold=rng.uniform(0.0, 0.8, neurons),
        mean_rate=np.exp(rng.uniform(np.log(1.5), np.log(25), neurons)),
    )


def respond(rng: np.random.Generator, rate: Float64Array, shape: float) -> Float64Array:
    """Responses of one presentation: gamma around the rate, independent over neurons and frames.

    Args:
        rng: where the noise is drawn from.
        rate: (N, L) noiseless rate.
        shape: the gamma law's shape; its coefficient of variation is shape ** -0.5.
    """
    return rate * rng.gamma(shape, 1 / shape, rate.shape)
