"""Exponential moving average of a model: the weights that are validated and published."""

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class ExponentialMovingAverage(Generic[Model]):
    """Averages every state entry of a model, buffers too; integer counters are copied.

    The average starts at the model's first weights, as published.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        source, average = model.state_dict(), self.model.state_dict()
        floating = [name for name, value in average.items() if value.is_floating_point()]
        counters = [name for name in average if name not in set(floating)]
        # State entries share memory with the parameters for as long as the module lives: looked up once.
        self._floating = ([average[name] for name in floating], [source[name] for name in floating])
        self._counters = [(average[name], source[name]) for name in counters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average by 1 - decay towards the model's present state."""
        averages, sources = self._floating
        torch._foreach_lerp_(averages, sources, 1.0 - self.decay)
        for average, source in self._counters:
            average.copy_(source)

    def state_dict(self) -> dict[str, Tensor]:
        """State entries of the average."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the average in place."""
        self.model.load_state_dict(state)
