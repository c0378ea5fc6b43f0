"""The readouts of DwiseNeuro: from shared features to the neurons of one mouse.

The legend of shapes is in `sensorium.model.layers`.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from sensorium.model.dwiseneuro_config import DwiseNeuroConfig
from sensorium.model.layers import GroupedLinear, Layer


class Readout(Layer):
    """Channel dropout, a grouped linear map to the neurons, and a soft rectifier.

    The rectifier is a softplus (Hoefling et al. 2022) of low sharpness: responses are large, and a sharp
    one would be linear almost everywhere.
    """

    def __init__(self, neurons: int, config: DwiseNeuroConfig) -> None:
        """Make the readout of a mouse with `neurons` neurons."""
        super().__init__()
        self.neurons = neurons
        self.beta = config.softplus_beta
        outputs = math.ceil(neurons / config.readout_groups) * config.readout_groups
        self.dropout: nn.Module = nn.Dropout1d(config.readout_dropout)
        self.linear = GroupedLinear(config.cortex_features[-1], outputs, config.readout_groups, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, T) to (B, N, T), not negative."""
        drive = self.linear(self.dropout(features))[:, : self.neurons]
        return functional.softplus(drive, beta=self.beta)

    def fuse(self) -> None:
        """Drop the dropout."""
        self.dropout = nn.Identity()
