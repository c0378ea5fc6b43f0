"""DwiseNeuro as one would first write it: three-dimensional convolutions over contiguous (B, C, T, H, W) tensors.

The baseline of `training_step.py`, and what the tests compare the package's factorised form with. Its entries
have the names of `sensorium.model`, kernels in five dimensions: `match` carries the weights over.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensorium.model.architecture import Model
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.model.dwiseneuro_config import DwiseNeuroConfig


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    if rate == 0 or not training:
        return x
    mask = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * mask / (1 - rate)


class ConvNorm(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, padding=0, groups=1, activation=True):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm3d(outputs)
        self.activation = nn.SiLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Projection(nn.Module):
    def __init__(self, inputs, outputs, reduction):
        super().__init__()
        self.reduce = nn.Conv3d(inputs, inputs // reduction, 1)
        self.expand = nn.Conv3d(inputs // reduction, inputs, 1)
        self.project = nn.Conv3d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3, 4), keepdim=True)
        gate = self.expand(functional.silu(self.reduce(mean))).sigmoid()
        return self.norm(self.project(x * gate))


class Position(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        share = math.ceil(channels / 6) * 2
        self.register_buffer("inverse_frequencies", 1 / 10000 ** (torch.arange(0, share, 2).float() / share))

    def forward(self, x: Tensor) -> Tensor:
        axes = []
        for axis, length in enumerate(x.shape[2:]):
            angles = torch.outer(torch.arange(length, device=x.device).float(), self.inverse_frequencies)
            waves = torch.cat([angles.sin(), angles.cos()], 1).t()
            sizes = [len(waves), 1, 1, 1]
            sizes[axis + 1] = length
            axes.append(waves.reshape(sizes).expand(-1, *x.shape[2:]))
        return x + torch.cat(axes)[: self.channels].to(x.dtype)


class Shortcut(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.channels, self.stride = channels, stride
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            size = (x.shape[2], *(math.ceil(pixels / self.stride) for pixels in x.shape[3:]))
            x = functional.interpolate(x, size=size, mode="nearest")
        if x.shape[1] != self.channels:
            x = x.repeat(1, math.ceil(self.channels / x.shape[1]), 1, 1, 1)[:, : self.channels]
        return self.norm(x)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, drop_rate, config):
        super().__init__()
        width, space, time = inputs * config.expansion, config.spatial_kernel, config.temporal_kernel
        self.drop_rate = drop_rate
        self.position = Position(inputs)
        self.expand = ConvNorm(inputs, width)
        self.space = ConvNorm(
            width, width, (1, space, space), (1, stride, stride), (0, space // 2, space // 2), groups=width
        )
        self.time = ConvNorm(width, width, (time, 1, 1), 1, (time // 2, 0, 0), groups=width)
        self.project = Projection(width, outputs, config.se_reduction)
        self.shortcut = Shortcut(outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(x)
        main = self.project(self.time(self.space(self.expand(x))))
        return drop_path(main, self.drop_rate, self.training) + self.shortcut(x)


class CortexLayer(nn.Module):
    def __init__(self, inputs, outputs, groups, drop_rate):
        super().__init__()
        self.outputs, self.groups, self.drop_rate = outputs, groups, drop_rate
        self.mix = nn.Conv1d(inputs, outputs, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.shortcut = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        main = functional.silu(self.norm(self.mix(x)))
        windows, channels, frames = main.shape
        main = main.view(windows, self.groups, -1, frames).transpose(1, 2).reshape(windows, channels, frames)
        tiled = x.repeat(1, math.ceil(self.outputs / x.shape[1]), 1)[:, : self.outputs]
        return drop_path(main, self.drop_rate, self.training) + self.shortcut(tiled)


class Readout(nn.Module):
    def __init__(self, neurons, config):
        super().__init__()
        self.neurons, self.beta, groups = neurons, config.softplus_beta, config.readout_groups
        self.dropout = nn.Dropout1d(config.readout_dropout)
        self.linear = nn.Conv1d(config.cortex_features[-1], math.ceil(neurons / groups) * groups, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return functional.softplus(self.linear(self.dropout(x))[:, : self.neurons], beta=self.beta)


class Core(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths, count = (*config.features, config.features[-1]), len(config.features)
        self.stem = ConvNorm(5, widths[0], activation=False)
        self.blocks = nn.ModuleList(
            Block(widths[i], widths[i + 1], config.strides[i], config.drop_path * i / count, config)
            for i in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x.mean((3, 4))


class PlainDwiseNeuro(Model[DwiseNeuroConfig]):
    def __init__(self, config: DwiseNeuroConfig, neurons: Sequence[int]):
        super().__init__(config, neurons)
        widths = (config.features[-1], *config.cortex_features)
        self.core = Core(config)
        self.cortex = nn.Sequential(
            *(
                CortexLayer(widths[i], widths[i + 1], config.cortex_groups, config.cortex_drop_path)
                for i in range(len(config.cortex_features))
            )
        )
        self.readouts = nn.ModuleList(Readout(count, config) for count in neurons)

    def widest_activation(self, frames: int) -> int:
        return DwiseNeuro.widest_activation(self, frames)


def match(plain: PlainDwiseNeuro, model: nn.Module) -> None:
    """Give the plain form the weights of the package's."""
    shapes = {name: entry.shape for name, entry in plain.state_dict().items()}
    plain.load_state_dict({name: entry.reshape(shapes[name]) for name, entry in model.state_dict().items()})
