"""DwiseNeuro: predict the responses of all neurons of several mice from video and behaviour.

One core and one cortex are shared by all mice; each mouse has a readout of its own. The task is that of
the Sensorium 2023 competition (arXiv:2305.19654). The legend of shapes is in `sensorium.model.layers`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sensorium.config import ModelConfig
from sensorium.model.core import Core
from sensorium.model.cortex import Cortex
from sensorium.model.layers import initialise
from sensorium.model.readout import Readout


class DwiseNeuro(nn.Module):
    """The model; weights are drawn from torch's global generator."""

    def __init__(self, config: ModelConfig, neurons: Sequence[int]) -> None:
        """Make the model.

        Args:
            config: widths, strides and rates.
            neurons: number of neurons of each mouse, in the order of the readouts.
        """
        super().__init__()
        self.config = config
        self.neurons = tuple(neurons)
        self.core = Core(config)
        self.cortex = Cortex(config)
        self.readouts = nn.ModuleList(Readout(count, config) for count in self.neurons)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """The part that all mice share.

        Args:
            x: (B, 5, T, H, W) input.

        Returns:
            (B, F, T).
        """
        features: Tensor = self.cortex(self.core(x))
        return features

    def readout(self, features: Tensor, mouse: int) -> Tensor:
        """The part of one mouse.

        Args:
            features: (B, F, T), or the rows of it that belong to the mouse.
            mouse: index of the readout.

        Returns:
            (B, N, T) responses, not negative.
        """
        responses: Tensor = self.readouts[mouse](features)
        return responses

    def forward(self, x: Tensor, mouse: int | None = None) -> Tensor | list[Tensor]:
        """Predict one mouse, or all of them in order.

        Args:
            x: (B, 5, T, H, W) input.
            mouse: index of the readout; all by default.

        Returns:
            (B, N, T), or a list with one such tensor a mouse.
        """
        features = self.features(x)
        if mouse is not None:
            return self.readout(features, mouse)
        return [self.readout(features, index) for index in range(len(self.readouts))]


def meta_state(config: ModelConfig, neurons: Sequence[int]) -> dict[str, Tensor]:
    """Names, shapes and types of a model's state entries, without their memory."""
    with torch.device("meta"):
        return DwiseNeuro(config, neurons).state_dict()
