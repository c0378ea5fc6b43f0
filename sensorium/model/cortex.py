"""The cortex of DwiseNeuro: wide grouped layers over the pooled features of each frame.

The legend of shapes is in `sensorium.model.layers`.
"""

import itertools

from torch import Tensor, nn
from torch.nn import functional

from sensorium.model.dwiseneuro_config import DwiseNeuroConfig
from sensorium.model.layers import (
    GroupedLinear,
    Layer,
    SequenceNorm,
    absorb,
    drop_path,
    shuffle_channels,
    tile_channels,
)


class CortexLayer(Layer):
    """Grouped mixing of channels, shuffled between the groups, around a tiled shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int, drop_rate: float) -> None:
        """Make the layer; `groups` divides both widths, `drop_rate` is that of stochastic depth."""
        super().__init__()
        self.outputs = outputs
        self.groups = groups
        self.drop_rate = drop_rate
        self.mix = GroupedLinear(inputs, outputs, groups, bias=False)
        self.norm: nn.Module = SequenceNorm(outputs)
        self.shortcut = SequenceNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, T) to (B, F', T)."""
        main = shuffle_channels(functional.silu(self.norm(self.mix(x))), self.groups)
        shortcut: Tensor = self.shortcut(tile_channels(x, self.outputs, dim=1))
        return drop_path(main, self.drop_rate, training=self.training) + shortcut

    def fuse(self) -> None:
        """Fold the norm of the main branch; that of the shortcut has no map before it."""
        if isinstance(self.norm, SequenceNorm):
            absorb(self.mix, self.norm)
            self.norm = nn.Identity()


class Cortex(nn.Sequential):
    """The layers one after the other: (B, F, T) to (B, F', T)."""

    def __init__(self, config: DwiseNeuroConfig) -> None:
        """Make the cortex of `config`."""
        widths = (config.features[-1], *config.cortex_features)
        layers = [
            CortexLayer(inputs, outputs, config.cortex_groups, config.cortex_drop_path)
            for inputs, outputs in itertools.pairwise(widths)
        ]
        super().__init__(*layers)
