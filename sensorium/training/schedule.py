"""The learning rate as a function of the iteration: it has no state, so a restart needs none."""

import math
from dataclasses import dataclass
from typing import Protocol

from sensorium.config import TrainingConfig


class Decay(Protocol):
    """Form of the decay of the learning rate after the warm-up.

    To add one, write a function like this, add it to `DECAYS`, and its name to `schedule` of
    `sensorium.config.TrainingConfig`:

    Examples:
        >>> def square_root(progress: float) -> float:
        ...     return 1.0 - math.sqrt(progress)
        >>> decay: Decay = square_root
        >>> schedule = WarmupDecay(peak=0.01, final_ratio=0.0, warmup=2, iterations=4, decay=decay)
        >>> [schedule(iteration) for iteration in (0, 2, 3, 6)]
        [0.0, 0.01, 0.005, 0.0]
    """

    def __call__(self, progress: float, /) -> float:
        """Part of the way to the final learning rate that is left: 1 at progress 0, 0 at progress 1."""
        ...


def cosine(progress: float) -> float:
    """Half a period of a cosine (arXiv:1608.03983 without restarts); see `Decay`."""
    return (1.0 + math.cos(math.pi * progress)) / 2.0


def linear(progress: float) -> float:
    """A straight line; see `Decay`."""
    return 1.0 - progress


DECAYS: dict[str, Decay] = {"cosine": cosine, "linear": linear}
"""By the name that the settings use."""


@dataclass(frozen=True)
class WarmupDecay:
    """A linear rise from 0, then a decay."""

    peak: float
    """Learning rate at the end of the rise."""
    final_ratio: float
    """Learning rate at the end of the decay, over `peak`."""
    warmup: int
    """Iterations of the rise."""
    iterations: int
    """Iterations of the decay."""
    decay: Decay

    def __call__(self, iteration: int) -> float:
        """Learning rate of one iteration, counted from 0 over the whole training."""
        if iteration < self.warmup:
            return self.peak * iteration / self.warmup
        lowest = self.final_ratio * self.peak
        return lowest + (self.peak - lowest) * self.decay(min((iteration - self.warmup) / self.iterations, 1.0))


def make_schedule(recipe: TrainingConfig, steps: int) -> WarmupDecay:
    """The schedule that an experiment's settings choose, for a number of optimizer steps per epoch."""
    warmup, iterations = recipe.warmup_epochs * steps, recipe.cosine_epochs * steps
    return WarmupDecay(recipe.learning_rate, recipe.final_learning_rate, warmup, iterations, DECAYS[recipe.schedule])
