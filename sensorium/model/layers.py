"""Layers that the parts of DwiseNeuro share.

Shapes, here and in all of `sensorium.model`:

    B  windows of a batch        C  channels (features)
    T  frames of a window        F  channels after the core or the cortex
    H  rows of an image          N  neurons of one mouse
    W  columns of an image       G  groups of a convolution

Videos are held as (B, T, H, W, C), contiguous: channels lie last in memory. Every convolution of the
factorised blocks sees them through a view as a stack of channels-last images, which takes the fast
depth-wise kernels that three-dimensional convolutions do not have. Sequences are (B, F, T).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class VideoNorm(nn.BatchNorm2d):
    """Batch norm over all windows, frames and pixels of a (B, T, H, W, C) video."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the shape stays."""
        return as_video(super().forward(as_images(x)), len(x))


class SequenceNorm(nn.BatchNorm1d):
    """Batch norm over all windows and frames of a (B, F, T) sequence."""


def as_images(x: Tensor) -> Tensor:
    """View (B, T, H, W, C) as channels-last images (B·T, C, H, W)."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def as_video(images: Tensor, windows: int) -> Tensor:
    """Undo `as_images`: (B·T, C, H, W) to (B, T, H, W, C), for B = `windows`."""
    return images.permute(0, 2, 3, 1).unflatten(0, (windows, -1))


class VideoConv(nn.Module):
    """A convolution of videos along one kind of axis, batch norm, and SiLU where wanted.

    Kinds: `point` mixes channels at each pixel; `space` filters each channel over rows and columns;
    `time` filters each channel over frames. The last two make the depth-wise separable, (2+1)-dimensional
    filter of R(2+1)D (arXiv:1711.11248).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kind: Literal["point", "space", "time"] = "point",
        *,
        kernel: int = 1,
        stride: int = 1,
        activation: bool = True,
    ) -> None:
        """Make the layer.

        Args:
            inputs: channels coming in.
            outputs: channels going out; equal to `inputs` for the depth-wise kinds.
            kind: axes of the filter.
            kernel: its length, odd.
            stride: step over rows and columns, for `space`.
            activation: whether SiLU follows the norm.
        """
        super().__init__()
        self.kind = kind
        self.activation = activation
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel_size=(kernel, 1) if kind == "time" else kernel,
            stride=stride,
            padding=(kernel // 2, 0) if kind == "time" else kernel // 2,
            groups=1 if kind == "point" else inputs,
            bias=False,
        )
        self.norm: nn.Module = VideoNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H', W', C')."""
        x = self.norm(self._filter_time(x) if self.kind == "time" else as_video(self.conv(as_images(x)), len(x)))
        return functional.silu(x) if self.activation else x

    def _filter_time(self, x: Tensor) -> Tensor:
        images = x.flatten(2, 3).permute(0, 3, 1, 2)  # (B, C, T, H·W), channels-last
        return self.conv(images).permute(0, 2, 3, 1).unflatten(2, x.shape[2:4])


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from its mean (arXiv:1709.01507)."""

    def __init__(self, channels: int, reduction: int) -> None:
        """Make the layer; `reduction` is the width of the video over that of the bottleneck."""
        super().__init__()
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to the same."""
        mean = x.mean((1, 2, 3))  # (B, C)
        gate = self.expand(functional.silu(self.reduce(mean))).sigmoid()
        return x * gate[:, None, None, None]


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
        exponents = torch.arange(0, share, 2).float() / share
        self.register_buffer("inverse_frequencies", 1.0 / 10000**exponents)

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
        with torch.autocast(self.inverse_frequencies.device.type, enabled=False):
            axes = []
            for axis, length in enumerate(shape):
                positions = torch.arange(length, device=self.inverse_frequencies.device)
                angles = positions[:, None] * self.inverse_frequencies
                waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (length, C / 3)
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
        weight = self.weight.unflatten(0, (self.groups, -1))  # (G, F'/G, F/G)
        columns = x.unflatten(1, (self.groups, -1)).permute(1, 2, 0, 3).flatten(2)  # (G, F/G, B·T)
        y = torch.bmm(weight, columns).flatten(0, 1).unflatten(1, (len(x), -1))  # (F', B, T)
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        return y.transpose(0, 1)


def initialise(model: nn.Module) -> None:
    """Draw all weights from torch's global generator.

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
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
