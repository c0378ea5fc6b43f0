"""The animal's behaviour in one trial: running, pupil dilation and where the eye points.

Values lie in the range of the recordings: dilation tens of pixels, speed in cm/s, the pupil's centre
in pixels of the eye camera. L frames.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sensorium.recordings.synthetic import exact

Float64Array = npt.NDArray[np.float64]

_WALK_BITS = 12
"""Binary digits of a value after the point."""


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
