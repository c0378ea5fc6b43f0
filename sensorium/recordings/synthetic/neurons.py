"""The simulated animal: its behaviour, and its neurons of primary visual cortex.

Values of behaviour lie in the range of the recordings: dilation tens of pixels, speed in cm/s, the pupil's centre
in pixels of the eye camera.

A neuron adds up what its receptive field sees and what the animal does, and passes the sum through a smooth
rectifier. The visual part is a luminance (on/off) response, a simple cell and a complex cell: Gabor
filters in quadrature whose energy does not depend on the phase (Adelson & Bergen 1985,
https://doi.org/10.1364/JOSAA.2.000284). Each has the neuron's latency and biphasic temporal kernel.
Running and pupil dilation change the gain of mouse V1 (Niell & Stryker 2010,
https://doi.org/10.1016/j.neuron.2010.01.033). Responses scatter around the rate by a gamma law.

Receptive fields are wide and coarse, so that small models learn them from a handful of trials. Filters, components
and what is summed over are whole numbers, for `sensorium.recordings.synthetic.exact`.
N neurons, L frames, P = H * W pixels, K taps of the temporal kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sensorium.recordings.synthetic import exact
from sensorium.recordings.synthetic.movies import Movie

Float64Array = npt.NDArray[np.float64]

COMPONENTS = ("luminance", "simple", "complex", "running", "pupil")
"""What drives a neuron."""
_SHARES = (5.0, 1.0, 1.5, 5.0, 2.5)
_MOSTLY_POSITIVE = (0.5, 0.5, 0.9, 0.8, 0.5)
_TAPS = 10
GREY = 127.0
_LUMINANCE_BITS, _GABOR_BITS, _KERNEL_BITS = 20, 12, 10
"""Whole filters are these multiples, powers of 2, of the true ones."""
VISUAL_BITS, STATE_BITS = -16, 12
"""Components are rounded to whole numbers after these powers of 2: visual ones, those of behaviour."""
_RATE_BITS = 12  # binary digits of a rate after the point


_WALK_BITS = 12  # binary digits of a value after the point


@dataclass(frozen=True)
class Behavior:
    """What the animal does during one trial."""

    dilation: Float64Array
    """(L,) pupil dilation, pixels of the eye camera."""
    speed: Float64Array
    """(L,) running speed, cm/s."""
    pupil_center: Float64Array
    """(2, L) position of the pupil, pixels of the eye camera."""

    @property
    def channels(self) -> Float64Array:
        """(2, L): dilation and speed, the raw format's `behavior`."""
        return np.stack([self.dilation, self.speed])


def _wander(rng: np.random.Generator, frames: int, scale: float) -> Float64Array:
    """A stationary Ornstein-Uhlenbeck walk (frames,) of unit variance, correlation time `scale` frames."""
    decay = 1 - 1 / scale
    steps = exact.normal(rng, frames) * np.sqrt(1 - decay * decay)
    walk = np.empty(frames)
    value = float(exact.normal(rng))
    for frame in range(frames):
        value = decay * value + steps[frame]
        walk[frame] = value
    return exact.on_grid(walk, _WALK_BITS)


def simulate(rng: np.random.Generator, frames: int) -> Behavior:
    """Behaviour of one trial: bouts of running, and a pupil that widens with them.

    Args:
        rng: where all is drawn from.
        frames: length of the trial, L.
    """
    arousal = _wander(rng, frames, 30.0)
    speed = exact.on_grid(9.0 * exact.squareplus(1.5 * arousal - 0.5), _WALK_BITS)
    dilation = 32.0 + 7.0 * (0.5 * arousal + 0.85 * _wander(rng, frames, 45.0))
    center = np.stack([310 + 6 * _wander(rng, frames, 25.0), 240 + 4 * _wander(rng, frames, 25.0)])
    return Behavior(exact.on_grid(np.maximum(dilation, 5.0), _WALK_BITS), speed, center)


@dataclass
class Population:
    """The neurons of one mouse."""

    filters: Float64Array
    """(3, N, P) whole spatial filters: luminance, Gabor in sine and cosine phase."""
    kernel: Float64Array
    """(N, K) whole temporal kernel, the latest frame first."""
    weights: Float64Array
    """(5, N) signed weight of each standardised component."""
    steepness: Float64Array
    """(N,) how steeply the rate rises with the drive."""
    threshold: Float64Array
    """(N,) drive at which a neuron starts to fire."""
    mean_rate: Float64Array
    """(N,) mean response over the calibration trials."""
    places: Float64Array
    """(N, 2) row and column of the receptive field's centre, in frame heights."""
    sigma: Float64Array
    """(N,) standard deviation of the receptive field's Gaussian window, in frame heights."""
    angle: Float64Array
    """(N,) direction of the Gabor filters' wave vector, turns from the rightward axis towards the downward one."""
    frequency: Float64Array
    """(N,) spatial frequency of the Gabor filters, cycles per frame height."""
    center: Float64Array = field(init=False)
    """(5, N) mean of each component over the calibration trials."""
    scale: Float64Array = field(init=False)
    """(5, N) standard deviation of the same."""
    gain: Float64Array = field(init=False)
    """(N,) factor that brings the mean response to `mean_rate`."""

    def _components(self, movie: Movie, behavior: Behavior) -> list[Float64Array]:
        """The components, each (N, L) or (1, L), whole numbers, not yet standardised."""
        seen = movie.reshape(len(movie), -1).T.astype(np.float64) - GREY
        luminance, sine, cosine = (_delayed(exact.product(filters, seen), self.kernel) for filters in self.filters)
        visual = [luminance, sine, np.sqrt(sine * sine + cosine * cosine)]
        states = [np.sqrt(behavior.speed)[None], behavior.dilation[None]]
        return [np.rint(part * 2.0**VISUAL_BITS) for part in visual] + [
            np.rint(part * 2.0**STATE_BITS) for part in states
        ]

    def _excitation(self, components: Sequence[Float64Array]) -> Float64Array:
        """(N, L) rate before the gain."""
        shape = components[0].shape
        drive = np.zeros(shape)
        for part, weight, center, scale in zip(components, self.weights, self.center, self.scale, strict=True):
            drive += (weight / scale)[:, None] * (part - center[:, None])
        return exact.squareplus(self.steepness[:, None] * (drive - self.threshold[:, None]))

    def calibrate(self, trials: Sequence[tuple[Movie, Behavior]]) -> None:
        """Standardise the components over some trials, and set the gains from them; one trial at a time."""
        neurons = len(self.mean_rate)
        sums, squares = np.zeros((2, len(COMPONENTS), neurons), dtype=np.int64)
        frames = sum(len(movie) for movie, _ in trials)
        for movie, behavior in trials:
            for index, part in enumerate(self._components(movie, behavior)):
                whole = part.astype(np.int64)
                sums[index] += whole.sum(axis=1)
                squares[index] += (whole * whole).sum(axis=1)
        self.center = sums / frames
        self.scale = np.sqrt(np.maximum(squares / frames - self.center * self.center, 0)) + 1e-6
        total = np.zeros(neurons, dtype=np.int64)
        for movie, behavior in trials:
            excitation = self._excitation(self._components(movie, behavior))
            total += np.rint(excitation * 2.0**_RATE_BITS).astype(np.int64).sum(axis=1)
        self.gain = self.mean_rate / (total / frames / 2.0**_RATE_BITS)

    def rate(self, movie: Movie, behavior: Behavior) -> Float64Array:
        """Noiseless rate (N, L) of one trial; `calibrate` comes first."""
        excitation = self._excitation(self._components(movie, behavior))
        return exact.on_grid(self.gain[:, None] * excitation, _RATE_BITS)


def _delayed(linear: Float64Array, kernel: Float64Array) -> Float64Array:
    """Causal convolution of (N, L) with (N, K); before the trial the first frame stood still."""
    taps, frames = kernel.shape[1], linear.shape[1]
    padded = np.concatenate([np.repeat(linear[:, :1], taps - 1, axis=1), linear], axis=1)
    out = np.zeros_like(linear)
    for lag in range(taps):
        out += kernel[:, lag : lag + 1] * padded[:, taps - 1 - lag : taps - 1 - lag + frames]
    return out


def _filters(
    rng: np.random.Generator, places: Float64Array, height: int, width: int
) -> tuple[Float64Array, dict[str, Float64Array]]:
    """Whole spatial filters (3, N, P), and the `sigma`, `angle` and `frequency` (N,) that they are made from.

    Receptive fields are a quarter to a half of the frame's height wide.
    """
    neurons = len(places)
    y, x = np.mgrid[:height, :width].reshape(2, 1, -1) / height
    dy, dx = y - places[:, :1], x - places[:, 1:]
    sigma = exact.uniform(rng, 0.2, 0.4, (neurons, 1))
    window = exact.decay((dy * dy + dx * dx) / (2 * sigma * sigma))
    angle = exact.uniform(rng, 0, 0.5, (neurons, 1))
    frequency = exact.uniform(rng, 0.6, 1.2, (neurons, 1))
    waves = frequency * (dx * exact.cosine(angle) + dy * exact.sine(angle))
    # A decay is a multiple of 2 ** -20 and a sine one of 2 ** -14, so that these sums are exact.
    area = window.sum(axis=1, keepdims=True)
    gabors = np.stack([window * exact.sine(waves), window * exact.cosine(waves)])
    gabors -= window * (gabors.sum(axis=2, keepdims=True) / area)
    luminance = np.rint(window / area * 2.0**_LUMINANCE_BITS)
    filters = np.concatenate([luminance[None], np.rint(gabors * 2.0**_GABOR_BITS)])
    return filters, {"sigma": sigma[:, 0], "angle": angle[:, 0], "frequency": frequency[:, 0]}


def _kernels(rng: np.random.Generator, neurons: int) -> Float64Array:
    """Whole temporal kernels (N, K): a latency of 30 to 100 ms, a peak, and a weaker rebound."""
    lag = np.arange(_TAPS) - exact.uniform(rng, 1, 3, (neurons, 1))
    rise = np.maximum(lag, 0) / exact.uniform(rng, 1, 1.6, (neurons, 1))
    kernel = rise * exact.decay(rise) * (1 - exact.uniform(rng, 0, 0.4, (neurons, 1)) * rise * rise / 6)
    return np.rint(kernel * 2.0**_KERNEL_BITS)


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
    places = 0.5 * np.array([1, width / height]) * (1 + 0.6 * spread) + 0.05 * exact.normal(rng, neurons, 2)
    shares = [share * exact.gamma_noise(rng, share, neurons) for share in _SHARES]
    total = shares[0] + shares[1] + shares[2] + shares[3] + shares[4]
    signs = np.where(rng.random((len(COMPONENTS), neurons)) < np.array(_MOSTLY_POSITIVE)[:, None], 1, -1)
    filters, drawn = _filters(rng, places, height, width)
    return Population(
        filters=filters,
        kernel=_kernels(rng, neurons),
        weights=signs * np.sqrt(np.stack(shares) / total),
        steepness=exact.uniform(rng, 1.2, 2.0, (neurons,)),
        threshold=exact.uniform(rng, 0.0, 0.8, (neurons,)),
        mean_rate=25.0 * exact.decay(exact.uniform(rng, 0, 2.8, (neurons,))),
        places=places,
        **drawn,
    )


def respond(rng: np.random.Generator, rate: Float64Array, shape: float) -> Float64Array:
    """Responses of one presentation: gamma around the rate, independent over neurons and frames.

    Args:
        rng: where the noise is drawn from.
        rate: (N, L) noiseless rate.
        shape: the gamma law's shape; its coefficient of variation is shape ** -0.5.
    """
    return rate * exact.gamma_noise(rng, shape, *rate.shape)
