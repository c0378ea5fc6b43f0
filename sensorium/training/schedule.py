"""The learning rate as a function of the iteration: no state, so nothing to resume."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """A linear rise from 0, then a cosine decay (arXiv:1608.03983 without restarts)."""

    peak: float
    """Learning rate at the end of the rise."""
    final_ratio: float
    """Learning rate at the end of the decay, over `peak`."""
    warmup: int
    """Iterations of the rise."""
    cosine: int
    """Iterations of the decay."""

    def __call__(self, iteration: int) -> float:
        """Learning rate of one iteration, counted from 0 over the whole training."""
        if iteration < self.warmup:
            return self.peak * iteration / self.warmup
        progress = min((iteration - self.warmup) / self.cosine, 1.0)
        lowest = self.final_ratio * self.peak
        return lowest + (self.peak - lowest) * (1.0 + math.cos(math.pi * progress)) / 2.0
