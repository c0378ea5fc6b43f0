"""Layers of videos, made for speed: the same functions as three-dimensional convolutions, to rounding.

Videos are held as (B, T, H, W, C), contiguous: channels lie last in memory. Every convolution of the
factorised blocks sees them through a view as a stack of channels-last images, which takes the fast
depth-wise kernels that three-dimensional convolutions do not have. The legend of shapes is in
`sensorium.model.layers`.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sensorium.model.layers import Layer, absorb


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


def as_images(x: Tensor) -> Tensor:
    """View (B, T, H, W, C) as channels-last images (B·T, C, H, W)."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def as_video(images: Tensor, windows: int) -> Tensor:
    """Undo `as_images`: (B·T, C, H, W) to (B, T, H, W, C), for B = `windows`."""
    frames, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).reshape(windows, frames // windows, height, width, channels)


def subsample(x: Tensor, stride: int) -> Tensor:
    """Every `stride`-th row and column: (B, T, H, W, C) to (B, T, H', W', C)."""
    if stride == 1:
        return x
    size = [math.ceil(pixels / stride) for pixels in x.shape[2:4]]
    return as_video(functional.interpolate(as_images(x), size=size, mode="nearest"), len(x))


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


class PointConv(Layer):
    """A 1x1x1 convolution of videos, batch norm, and SiLU where wanted.

    The mean and variance of the outputs follow from the mean and covariance of the inputs, which are several
    times narrower where the layer widens the video; so the norm is folded into the weights before they are
    used, in training too, and no pass over the wide video is spent on it.
    """

    def __init__(self, inputs: int, outputs: int, *, activation: bool = True) -> None:
        """Make the layer; `activation` is whether SiLU follows the norm."""
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

    def fuse(self) -> None:
        """Fold the norm into the convolution."""
        if self.norm is not None:
            absorb(self.conv, self.norm)
            self.norm = None

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


class ChannelConv(Layer):
    """A depth-wise convolution of videos over space or time, batch norm and SiLU.

    One of each makes the depth-wise form of R(2+1)D's factorised filter (arXiv:1711.11248).
    """

    def __init__(self, channels: int, axis: Literal["space", "time"], *, kernel: int, stride: int = 1) -> None:
        """Make the layer.

        Args:
            channels: each is filtered by itself.
            axis: over rows and columns, or over frames.
            kernel: length of the filter, pixels or frames, odd.
            stride: step over rows and columns, pixels.
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

    def fuse(self) -> None:
        """Fold the norm into the convolution; SiLU stays."""
        if isinstance(self.norm, VideoNorm):
            absorb(self.conv, self.norm)
            self.norm = nn.SiLU(inplace=True)


class GatedProjection(Layer):
    """Squeeze-and-excitation (arXiv:1709.01507), then a 1x1x1 convolution and batch norm.

    A gate scales each channel by a function of its mean; the projection mixes the gated channels. As the gate
    is constant over a window, it is multiplied into the projection's weights, window by window, and not into
    the wide video.
    """

    def __init__(self, inputs: int, outputs: int, reduction: int) -> None:
        """Make the layer; `reduction` is `inputs` over the width of the gate's bottleneck."""
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

    def fuse(self) -> None:
        """Fold the norm into the projection."""
        if isinstance(self.norm, VideoNorm):
            absorb(self.project, self.norm)
            self.norm = nn.Identity()

    def multiply_adds(self, positions: int) -> int:
        """The gate once per window, the projection at each of `positions`."""
        gate = self.reduce.weight.numel() + self.expand.weight.numel()
        return gate + self.project.weight.numel() * positions
