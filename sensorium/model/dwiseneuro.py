"""DwiseNeuro: predict the responses of all neurons of several mice from video and behaviour.

One core and one cortex are shared by all mice; each mouse has a readout of its own. The task is that of
the Sensorium 2023 competition (arXiv:2305.19654). A block of the core is MobileNetV2's (arXiv:1801.04381) with
EfficientNet's squeeze-and-excitation (arXiv:1905.11946), its depth-wise filter split in space and time
(R(2+1)D, arXiv:1711.11248). The legend of shapes is in `sensorium.model.layers`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensorium.model import kernels
from sensorium.model.architecture import Model
from sensorium.model.cpu_inference import InferenceCore
from sensorium.model.dwiseneuro_config import DwiseNeuroConfig
from sensorium.model.layers import (
    INPUT_CHANNELS,
    GroupedLinear,
    Layer,
    PositionEncoding,
    absorb,
    drop_path,
    initialise,
    shuffle_channels,
    tile_channels,
)
from sensorium.model.video import ChannelConv, GatedProjection, PointConv, VideoNorm, subsample


class Shortcut(Layer):
    """The block's way around: subsampled, channels tiled, normalised; the norm holds its only weights."""

    def __init__(self, channels: int, stride: int) -> None:
        """Make the shortcut to `channels` channels at every `stride`-th pixel."""
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.norm = VideoNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H', W', C')."""
        normalised: Tensor = self.norm(tile_channels(subsample(x, self.stride), self.channels, dim=-1))
        return normalised


class Block(nn.Module):
    """Position encoding, then expand, filter in space, filter in time, gate, project, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float, config: DwiseNeuroConfig) -> None:
        """Make the block; `stride` is the step of the spatial filter, pixels, `drop_rate` that of stochastic depth."""
        super().__init__()
        width = inputs * config.expansion
        self.drop_rate = drop_rate
        self.position = PositionEncoding(inputs)
        self.expand = PointConv(inputs, width)
        self.space = ChannelConv(width, "space", kernel=config.spatial_kernel, stride=stride)
        self.time = ChannelConv(width, "time", kernel=config.temporal_kernel)
        self.project = GatedProjection(width, outputs, config.se_reduction)
        self.shortcut = Shortcut(outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H', W', C')."""
        x = self.position(x)
        main = self.project(self.time(self.space(self.expand(x))))
        shortcut: Tensor = self.shortcut(x)
        return drop_path(main, self.drop_rate, training=self.training) + shortcut


class Core(nn.Module):
    """Stem and blocks, pooled over the image."""

    def __init__(self, config: DwiseNeuroConfig) -> None:
        """Make the core of `config`."""
        super().__init__()
        count = len(config.features)
        outputs = (*config.features[1:], config.features[-1])
        self.stem = PointConv(INPUT_CHANNELS, config.features[0], activation=False)
        self.blocks = nn.ModuleList(
            Block(config.features[i], outputs[i], config.strides[i], config.drop_path * i / count, config)
            for i in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 5, T, H, W) to features (B, F, T) of each frame."""
        x = self.stem(x.permute(0, 2, 3, 4, 1).contiguous())  # (B, T, H, W, C)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3)).transpose(1, 2)


class CortexLayer(Layer):
    """Grouped mixing of channels, shuffled between the groups, around a tiled shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int, drop_rate: float) -> None:
        """Make the layer; `groups` divides both widths, `drop_rate` is that of stochastic depth."""
        super().__init__()
        self.outputs = outputs
        self.groups = groups
        self.drop_rate = drop_rate
        self.mix = GroupedLinear(inputs, outputs, groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm1d(outputs)
        self.shortcut = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, T) to (B, F', T)."""
        main = shuffle_channels(functional.silu(self.norm(self.mix(x))), self.groups)
        shortcut: Tensor = self.shortcut(tile_channels(x, self.outputs, dim=1))
        return drop_path(main, self.drop_rate, training=self.training) + shortcut

    def fuse(self) -> None:
        """Fold the norm of the main branch; that of the shortcut has no map before it."""
        if isinstance(self.norm, nn.BatchNorm1d):
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


class DwiseNeuro(Model[DwiseNeuroConfig]):
    """The model; features are (B, F, T)."""

    def __init__(self, config: DwiseNeuroConfig, neurons: Sequence[int]) -> None:
        """Make the model; see `Model`."""
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

    def cpu_features(self, frames: int, dtype: torch.dtype, at_once: int) -> Callable[[Tensor], Tensor]:
        """The core a few windows at a time, the cortex all of them; see `Model`."""
        core: Callable[[Tensor], Tensor] = self.core
        cortex = self.cortex
        assert cortex is not None
        compiled = kernels.load() if dtype in kernels.TYPES else None
        if compiled is not None:
            core = InferenceCore(cast("Core", self.core), frames, self.config.canvas, dtype, compiled)
        return lambda x: cortex(torch.cat([core(part) for part in torch.split(x, at_once)]))
