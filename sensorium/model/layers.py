"""What a layer is to the rest of the package, and layers that several parts use.

Shapes, here and in all of `sensorium.model`:

    B  windows of a batch        C  channels (features)
    T  frames of a window        F  channels after the core or the cortex
    H  rows of an image          N  neurons of one mouse
    W  columns of an image       G  groups of a convolution

Videos are held as (B, T, H, W, C), see `sensorium.model.video`; sequences are (B, F, T).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

INPUT_CHANNELS = 5
"""The video, two channels of behavior and two of the pupil's centre."""


class Layer(nn.Module):
    """A layer that `sensorium model` lists as one, and that may be simplified for inference."""

    def fuse(self) -> None:
        """Simplify a copy for inference: fold norms, drop what acts in training alone; nothing by default."""

    def multiply_adds(self, positions: int) -> int:
        """Multiply-adds of convolutions and linear maps for one window.

        Args:
            positions: places of the layer's output, over frames, rows and columns.
        """
        maps = [part for part in self.modules() if isinstance(part, (_ConvNd, nn.Linear, GroupedLinear))]
        return sum(part.weight.numel() * positions for part in maps)


@torch.no_grad()
def absorb(layer: "nn.Conv2d | nn.Linear | GroupedLinear", norm: _BatchNorm) -> None:
    """Multiply a norm's scale into the weights of the layer before it; its shift becomes the bias.

    In evaluation mode batch norm is a fixed scale and shift of each channel (arXiv:1712.05877, section 3.2). The layer
    must have no bias of its own.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    layer.weight = nn.Parameter(layer.weight.detach() * scale.view(-1, *(1,) * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter(shift)


def drop_path(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """Stochastic depth (arXiv:1603.09382): zero whole samples of a residual branch.

    Args:
        x: (B, ...) output of the branch.
        rate: probability that a sample is dropped; the others are scaled by 1 / (1 - rate).
        training: nothing is dropped otherwise.
    """
    if rate == 0 or not training:
        return x
    keep = 1 - rate
    mask = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * mask.div_(keep)


def tile_channels(x: Tensor, width: int, dim: int) -> Tensor:
    """Repeat the channels of `x` cyclically along `dim` and cut them at `width`."""
    channels = x.shape[dim]
    if channels == width:
        return x
    tiles = [x] * math.ceil(width / channels)
    return torch.cat(tiles, dim).narrow(dim, 0, width)


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups (ShuffleNet, arXiv:1707.01083).

    Args:
        x: (B, F, T); channel g * F/G + i goes to i * G + g.
        groups: G, a divisor of F.
    """
    windows, channels, frames = x.shape
    return x.reshape(windows, groups, -1, frames).transpose(1, 2).reshape(windows, channels, frames)


class PositionEncoding(nn.Module):
    """Add fixed sinusoids of time, row and column to a video (arXiv:1706.03762, in three dimensions).

    Each axis has an equal share of the channels, sines then cosines of geometrically falling frequencies;
    the three shares are laid side by side and cut at the number of channels.
    """

    inverse_frequencies: Tensor

    def __init__(self, channels: int) -> None:
        """Make the encoding of videos of `channels` channels."""
        super().__init__()
        self.channels = channels
        share = math.ceil(channels / 6) * 2
        # On the CPU, then moved: arithmetic on the device meta has torch import its compiler, which takes a second.
        exponents = torch.arange(0, share, 2, device="cpu").float() / share
        frequencies = 1.0 / 10000**exponents
        self.register_buffer("inverse_frequencies", frequencies.to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to the same."""
        return x + self.encoding(x.shape[1:4]).to(x.dtype)

    def encoding(self, shape: torch.Size) -> Tensor:
        """The sinusoids of every frame and pixel.

        Args:
            shape: (T, H, W).

        Returns:
            (T, H, W, C) float32.
        """
        axes = []
        for axis, length in enumerate(shape):
            positions = torch.arange(length, device=self.inverse_frequencies.device)
            angles = positions[:, None] * self.inverse_frequencies
            waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (length, share)
            sizes = [1, 1, 1, waves.shape[1]]
            sizes[axis] = length
            axes.append(waves.view(sizes).expand(*shape, -1))
        return torch.cat(axes, dim=-1)[..., : self.channels]


class GroupedLinear(nn.Module):
    """Mix the channels of a sequence within each of several groups: a grouped 1x1 convolution over frames."""

    def __init__(self, inputs: int, outputs: int, groups: int, *, bias: bool) -> None:
        """Make the layer; `groups` divides `inputs` and `outputs`."""
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, T) to (B, F', T)."""
        windows, channels, frames = x.shape
        grouped = x.reshape(windows, self.groups, -1, frames).permute(1, 2, 0, 3)
        columns = grouped.reshape(self.groups, channels // self.groups, -1)  # (G, F/G, B·T)
        weight = self.weight.view(self.groups, -1, channels // self.groups)  # (G, F'/G, F/G)
        y = torch.bmm(weight, columns).view(len(self.weight), windows, frames)
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        return y.transpose(0, 1)


def initialise(model: nn.Module) -> None:
    """Draw all weights from torch's global generator; those without memory (device meta) are left alone.

    Convolutions are normal with variance 2 / fan-out (He et al., arXiv:1502.01852, as EfficientNet has it),
    biases zero, norms the identity.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        elif isinstance(module, nn.Linear):
            fan_out = module.out_features
        elif isinstance(module, GroupedLinear):
            fan_out = len(module.weight) // module.groups
        else:
            continue
        if module.weight.is_meta:  # a draw of nothing would take a second: torch imports its compiler for it
            continue
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
