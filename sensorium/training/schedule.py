"""The learning rate as a function of the iteration: it has no state, so a restart needs none."""

import math
from dataclasses import dataclass
from typing import Protocol

from sensorium.config import TrainingConfig


class Schedule(Protocol):
    """Learning rate of every iteration of a training.

    To add one, write a class with this method, add it to `_DECAYS`, and its name to `schedule` of
    `sensorium.config.TrainingConfig`:

    Examples:
        >>> @dataclass(frozen=True)
        ... class Constant:
        ...     rate: float
        ...     def __call__(self, iteration: int) -> float:
        ...         return self.rate
        >>> schedule: Schedule = Constant(1e-3)
        >>> [schedule(iteration) for iteration in range(2)]
        [0.001, 0.001]
    """

    def __call__(self, iteration: int) -> float:
        """Learning rate of one iteration, counted from 0 over the whole training."""
        ...


@dataclass(frozen=True)
class _Warmup:
    """A linear rise from 0, then a decay."""

    peak: float
    """Learning rate at the end of the rise."""
    final_ratio: float
    """Learning rate at the end of the decay, over `peak`."""
    warmup: int
    """Iterations of the rise."""
    decay: int
    """Iterations of the decay."""

    def __call__(self, iteration: int) -> float:
        """See `Schedule`."""
        if iteration < self.warmup:
            return self.peak * iteration / self.warmup
        lowest = self.final_ratio * self.peak
        return lowest + (self.peak - lowest) * self._remaining(min((iteration - self.warmup) / self.decay, 1.0))

    def _remaining(self, progress: float) -> float:
        raise NotImplementedError


class WarmupCosine(_Warmup):
    """A linear rise from 0, then a cosine decay (arXiv:1608.03983 without restarts)."""

    def _remaining(self, progress: float) -> float:
        return (1.0 + math.cos(math.pi * progress)) / 2.0


class WarmupLinear(_Warmup):
    """A linear rise from 0, then a linear decay."""

    def _remaining(self, progress: float) -> float:
        return 1.0 - progress


_DECAYS = {"cosine": WarmupCosine, "linear": WarmupLinear}


def make_schedule(recipe: TrainingConfig, steps: int) -> Schedule:
    """The schedule that settings choose, for so many optimizer steps per epoch."""
    make, (warmup, decay) = _DECAYS[recipe.schedule], (recipe.warmup_epochs, recipe.cosine_epochs)
    return make(recipe.learning_rate, recipe.final_learning_rate, warmup * steps, decay * steps)
