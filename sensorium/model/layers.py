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
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
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
    windows, channels, frames = x.shape
    return x.reshape(windows, groups, -1, frames).transpose(1, 2).reshape(windows, channels, frames)


class _NormSiLU(Function):
    """Batch norm, then SiLU, keeping only the input for the backward pass.

    Autograd would keep the normalised video as well. Working it out again is one pass over memory, what it
    would have cost to write it; a third of what a block keeps is saved.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
    ) -> Tensor:
        """Normalise (B, C, H, W) images with their own statistics, note these in `mean` and `var`, activate."""
        y, batch_mean, inverse_std = torch.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        ctx.save_for_backward(x, weight, bias, batch_mean, inverse_std)
        ctx.eps = eps
        return functional.silu(y, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the images, the weight and the bias."""
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        var = inverse_std.pow(-2).sub_(ctx.eps)
        y = functional.batch_norm(x, mean, var, weight, bias, training=False, eps=ctx.eps)
        torch.ops.aten.silu_backward.grad_input(grad, y, grad_input=y)
        grads = torch.ops.aten.native_batch_norm_backward(
            y, x, weight, None, None, mean, inverse_std, True, ctx.eps, [True, True, True]
        )
        return (*grads, None, None, None, None)


class VideoNorm(nn.BatchNorm2d):
    """Batch norm over all windows, frames and pixels of a (B, T, H, W, C) video, and SiLU where wanted."""

    def __init__(self, channels: int, *, activation: bool = False) -> None:
        """Make the norm of videos of `channels` channels."""
        super().__init__(channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate; the shape stays."""
        return as_video(self._activated(as_images(x)), len(x))

    def _activated(self, images: Tensor) -> Tensor:
        if not self.activation:
            return super().forward(images)
        if not self.training:
            return functional.silu(super().forward(images))
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        activated: Tensor = _NormSiLU.apply(  # type: ignore[no-untyped-call]
            images, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
        return activated

    def note(self, mean: Tensor, var: Tensor, points: int) -> None:
        """Take the moments of a batch, found elsewhere, into the running statistics.

        Args:
            mean: (C,).
            var: (C,), biased.
            points: windows times frames times pixels.
        """
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (points / max(points - 1, 1)), self.momentum)


class SequenceNorm(nn.BatchNorm1d):
    """Batch norm over all windows and frames of a (B, F, T) sequence."""


def as_images(x: Tensor) -> Tensor:
    """View (B, T, H, W, C) as channels-last images (B·T, C, H, W)."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def as_video(images: Tensor, windows: int) -> Tensor:
    """Undo `as_images`: (B·T, C, H, W) to (B, T, H, W, C), for B = `windows`."""
    frames, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).reshape(windows, frames // windows, height, width, channels)


class _PointSiLU(Function):
    """A 1x1 convolution of images, then SiLU, keeping only the input for the backward pass.

    The wide video before SiLU is worked out again from the narrow one, which costs less than to keep it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, C, H, W), (C', C, 1, 1) and (C',), all of one type, to (B, C', H, W)."""
        ctx.save_for_backward(x, weight, bias)
        return functional.silu(functional.conv2d(x, weight, bias), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the images, the weight and the bias."""
        x, weight, bias = ctx.saved_tensors
        y = functional.conv2d(x, weight, bias)
        torch.ops.aten.silu_backward.grad_input(grad, y, grad_input=y)
        # The bias is summed up apart: the convolution's own sum is several times slower on the CPU.
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            y, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        total = y.sum((0, 2, 3), dtype=torch.promote_types(y.dtype, torch.float32))
        return grad_x, grad_weight, total.to(bias.dtype)


class PointConv(nn.Module):
    """A 1x1x1 convolution of videos, batch norm, and SiLU where wanted.

    The mean and variance of the outputs follow from the mean and covariance of the inputs, which are several
    times narrower where the layer widens the video; so the norm is folded into the weights before they are
    used, in training too, and no pass over the wide video is spent on it.
    """

    def __init__(self, inputs: int, outputs: int, *, activation: bool = True) -> None:
        """Make the layer.

        Args:
            inputs: channels coming in.
            outputs: channels going out.
            activation: whether SiLU follows the norm.
        """
        super().__init__()
        self.activation = activation
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
        self.norm: VideoNorm | None = VideoNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H, W, C')."""
        weight, bias = self.conv.weight, self.conv.bias
        if self.norm is not None:
            mean, var = self._batch_moments(x) if self.training else (self.norm.running_mean, self.norm.running_var)
            assert mean is not None
            assert var is not None
            scale = self.norm.weight * torch.rsqrt(var + self.norm.eps)
            weight, bias = weight * scale[:, None, None, None], self.norm.bias - mean * scale
        images = as_images(x)
        if self.training and self.activation:
            device = x.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
            assert bias is not None
            y = _PointSiLU.apply(images.to(dtype), weight.to(dtype), bias.to(dtype))  # type: ignore[no-untyped-call]
        else:
            y = functional.conv2d(images, weight, bias)
            y = functional.silu(y, inplace=not torch.is_grad_enabled()) if self.activation else y
        return as_video(y, len(x))

    def _batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C',) of the convolution's outputs, noted in the norm's running statistics."""
        assert self.norm is not None
        with torch.autocast(x.device.type, enabled=False):
            pixels = x.to(self.conv.weight.dtype).flatten(0, 3)  # (B·T·H·W, C)
            centre = pixels.mean(0)
            centred = pixels - centre
            covariance = centred.t() @ centred / len(pixels)
            weight = self.conv.weight.flatten(1)
            mean, var = weight @ centre, (weight @ covariance * weight).sum(1).clamp(min=0)
        self.norm.note(mean.detach(), var.detach(), len(pixels))
        return mean, var


class ChannelConv(nn.Module):
    """A depth-wise convolution of videos over space or time, batch norm and SiLU.

    One of each makes the depth-wise form of R(2+1)D's factorised filter (arXiv:1711.11248).
    """

    def __init__(self, channels: int, axis: Literal["space", "time"], *, kernel: int, stride: int = 1) -> None:
        """Make the layer.

        Args:
            channels: each is filtered by itself.
            axis: over rows and columns, or over frames.
            kernel: length of the filter, odd.
            stride: step over rows and columns.
        """
        super().__init__()
        self.axis = axis
        sizes = (kernel, kernel) if axis == "space" else (kernel, 1)
        padding = (sizes[0] // 2, sizes[1] // 2)
        self.conv = nn.Conv2d(channels, channels, sizes, stride, padding, groups=channels, bias=False)
        self.norm: nn.Module = VideoNorm(channels, activation=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H', W', C)."""
        if self.axis == "space":
            filtered = as_video(self.conv(as_images(x)), len(x))
        else:
            images = x.flatten(2, 3).permute(0, 3, 1, 2)  # (B, C, T, H·W), channels-last
            filtered = self.conv(images).permute(0, 2, 3, 1).reshape(x.shape)
        normalised: Tensor = self.norm(filtered)
        return normalised


class GatedProjection(nn.Module):
    """Squeeze-and-excitation (arXiv:1709.01507), then a 1x1x1 convolution and batch norm.

    A gate scales each channel by a function of its mean; the projection mixes the gated channels. As the gate
    is constant over a window, it is multiplied into the projection's weights, window by window, and not into
    the wide video.
    """

    def __init__(self, inputs: int, outputs: int, reduction: int) -> None:
        """Make the layer.

        Args:
            inputs: channels coming in.
            outputs: channels going out.
            reduction: `inputs` over the width of the gate's bottleneck.
        """
        super().__init__()
        self.reduce = nn.Linear(inputs, inputs // reduction)
        self.expand = nn.Linear(inputs // reduction, inputs)
        self.project = nn.Linear(inputs, outputs, bias=False)
        self.norm: nn.Module = VideoNorm(outputs)

    def gate(self, x: Tensor) -> Tensor:
        """Scale of each channel.

        Args:
            x: (B, T, H, W, C).

        Returns:
            (B, C), between 0 and 1.
        """
        # A sum and a small division: the gradient of `mean` would divide a whole video. In fp16 it would overflow.
        total = x.sum((1, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        mean = total / math.prod(x.shape[1:4])
        logits: Tensor = self.expand(functional.silu(self.reduce(mean)))
        return logits.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H, W, C')."""
        weight = self.gate(x)[:, :, None] * self.project.weight.t()  # (B, C, C')
        pixels = x.flatten(1, 3)  # (B, T·H·W, C)
        bias = self.project.bias
        projected = torch.bmm(pixels, weight) if bias is None else torch.baddbmm(bias, pixels, weight)
        normalised: Tensor = self.norm(projected.view(*x.shape[:-1], -1))
        return normalised


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
