"""DwiseNeuro: predict the responses of all neurons of several mice from video and behaviour.

One core and one cortex are shared by all mice; each mouse has a readout of its own. The task is that of
the Sensorium 2023 competition (arXiv:2305.19654). The legend of shapes is in `sensorium.model.layers`.
"""

import math
from collections.abc import Sequence

from torch import nn

from sensorium.model.architecture import Model
from sensorium.model.core import Core
from sensorium.model.cortex import Cortex
from sensorium.model.dwiseneuro_config import DwiseNeuroConfig
from sensorium.model.layers import initialise
from sensorium.model.readout import Readout


class DwiseNeuro(Model[DwiseNeuroConfig]):
    """The model; features are (B, F, T)."""

    def __init__(self, config: DwiseNeuroConfig, neurons: Sequence[int]) -> None:
        """Make the model.

        Args:
            config: widths, strides and rates.
            neurons: number of neurons of each mouse, in the order of the readouts.
        """
        super().__init__(config, neurons)
        self.core = Core(config)
        self.cortex = Cortex(config)
        self.readouts = nn.ModuleList(Readout(count, config) for count in self.neurons)
        initialise(self)

    def widest_activation(self, frames: int) -> int:
        """The inside of the widest block."""
        height, width = self.config.canvas
        widest = 0
        for features, stride in zip(self.config.features, self.config.strides, strict=True):
            widest = max(widest, features * self.config.expansion * height * width)
            height, width = math.ceil(height / stride), math.ceil(width / stride)
        return widest * frames
