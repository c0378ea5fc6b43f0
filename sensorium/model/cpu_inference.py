"""DwiseNeuro's core for inference on the CPU: the function of the folded `Core`, in fewer passes over memory.

* The stem and the first block's expansion are both linear, and the position encoding is a sum over axes: the wide video
  of the first block follows from the five inputs directly, without a matrix product.
* A block's expansion, SiLU and spatial filter are computed for a few images at a time, which stay in the cache.
* The temporal filter adds up its outputs, so squeeze-and-excitation needs no pass of its own.
* The shortcut, all biases and the next block's position encoding are one pass, into which the projection is added.
* The last block's output is averaged over the image: its projection maps averages.

The legend of shapes is in `sensorium.model.layers`. Videos are held as (B, H, W, T, C) here: all frames of a pixel lie
together, and the temporal filter works on them in the cache and in place.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional

from sensorium.model.kernels import CHANNELS, Kernels
from sensorium.model.layers import tile_channels
from sensorium.model.video import ChannelConv, PointConv, as_images, as_video, subsample

if TYPE_CHECKING:
    from sensorium.model.dwiseneuro import Block, Core

_ROOM = 1 << 23
"""Bytes of the images that are expanded and filtered at a time."""


class InferenceCore:
    """The core, for a number of frames and a canvas that are known before."""

    def __init__(
        self, core: "Core", frames: int, canvas: tuple[int, int], dtype: torch.dtype, kernels: Kernels
    ) -> None:
        """Arrange the weights; later changes of the core are not seen.

        Args:
            core: its norms are folded.
            frames: T.
            canvas: H and W.
            dtype: of wide videos and matrix products, float32 or bfloat16; all else is float32.
            kernels: the compiled parts.
        """
        blocks = cast("list[Block]", list(core.blocks))
        image, encodings = canvas, []
        for block in blocks:
            encodings.append(block.position.encoding(torch.Size((frames, *image))))
            image = (math.ceil(image[0] / block.shortcut.stride), math.ceil(image[1] / block.shortcut.stride))
        following = [*encodings[1:], encodings[0].new_zeros(())]
        first = _FromInputs(core.stem, blocks[0], encodings[0], dtype, kernels)
        expansions: list[_FromInputs | _FromVideo] = [
            first,
            *(_FromVideo(block, dtype, kernels) for block in blocks[1:]),
        ]
        self._blocks = [
            InferenceBlock(block, expansion, after, kernels)
            for block, expansion, after in zip(blocks, expansions, following, strict=True)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 5, T, H, W) float32 to features (B, F, T) float32."""
        with torch.autocast("cpu", enabled=False):
            x = x.contiguous()
            for block in self._blocks[:-1]:
                x = block.video(x)
            return self._blocks[-1].pooled(x)


class _FromInputs:
    """The first block's input and its wide images, from the input (B, 5, T, H, W)."""

    def __init__(self, stem: PointConv, block: "Block", encoding: Tensor, dtype: torch.dtype, kernels: Kernels) -> None:
        bias = stem.conv.bias
        assert bias is not None
        self.dtype = dtype
        self._kernels = kernels
        self._stem = stem.conv
        self._encoding = encoding  # (T, H, W, C)
        wide = _padded(block.expand.conv.weight.flatten(1).t())  # (C, C')
        self._weight = stem.conv.weight.flatten(1).t() @ wide  # (5, C')
        corner = encoding[:1, :1, :1]  # the encoding is a sum of functions of one axis each
        self._by_row = (encoding[:, :, 0] - corner[:, :, 0] + bias) @ wide + _padded(
            block.expand.conv.bias
        )  # (T, H, C')
        self._by_column = encoding[0, 0] @ wide  # (W, C')

    def narrow(self, x: Tensor, stride: int) -> Tensor:
        """The block's input, (B, H', W', T, C), at every `stride`-th pixel."""
        inputs = subsample(x.permute(0, 2, 3, 4, 1).contiguous(), stride)
        # Not as a matrix product: its bits would depend on the number of threads.
        video = as_video(self._stem(as_images(inputs)), len(x))
        return (video + subsample(self._encoding[None], stride)).permute(0, 2, 3, 1, 4)

    def wide(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Number of the first image, and images (n, H, W, C') expanded and activated, overwritten by the next."""
        windows, _, frames, *size = x.shape
        for first, images in _parts(windows * frames, (*size, self._weight.shape[1]), self.dtype):
            self._kernels.widen(x, self._weight, self._by_row, self._by_column, images, first)
            yield first, images


class _FromVideo:
    """A later block's input and its wide images, from the video (B, H, W, T, C) before it."""

    def __init__(self, block: "Block", dtype: torch.dtype, kernels: Kernels) -> None:
        self.dtype = dtype
        self._kernels = kernels
        self._weight = _padded(block.expand.conv.weight.flatten(1).t()).to(dtype)
        self._bias = _padded(block.expand.conv.bias)

    def narrow(self, x: Tensor, stride: int) -> Tensor:
        """The block's input, (B, H', W', T, C), at every `stride`-th pixel."""
        return x if stride == 1 else subsample(x.permute(0, 3, 1, 2, 4), stride).permute(0, 2, 3, 1, 4)

    def wide(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Number of the first image, and images (n, H, W, C') expanded and activated, overwritten by the next."""
        narrow = x.permute(0, 3, 1, 2, 4).to(self.dtype).flatten(0, 1).contiguous()
        for first, images in _parts(len(narrow), (*x.shape[1:3], len(self._bias)), self.dtype):
            pixels = narrow[first : first + len(images)].flatten(0, 2)
            torch.mm(pixels, self._weight, out=images.view(len(pixels), -1))
            self._kernels.activate(images, self._bias)
            yield first, images


class InferenceBlock:
    """One block. Videos between blocks have the next block's position encoding added."""

    def __init__(self, block: "Block", expansion: _FromInputs | _FromVideo, after: Tensor, kernels: Kernels) -> None:
        """Arrange the weights.

        Args:
            block: its norms are folded.
            expansion: where its wide images come from.
            after: (T, H', W', C') or a number, what the next block adds to its input.
            kernels: the compiled parts.
        """
        self._expansion, self._kernels = expansion, kernels
        self._space, self._space_bias = _filter(block.space)
        self._time, self._time_bias = _filter(block.time)
        self._stride = block.shortcut.stride
        gate, norm = block.project, block.shortcut.norm
        self._reduce = _padded(gate.reduce.weight), gate.reduce.bias
        self._expand = _padded(gate.expand.weight.t()).t(), _padded(gate.expand.bias)
        self._project = _padded(gate.project.weight).t()  # (C, C')
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self._scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (C')
        self._constant = (
            norm.bias
            - norm.running_mean * self._scale
            + gate.project.bias
            + (after.permute(1, 2, 0, 3) if after.ndim else after)
        )

    def video(self, x: Tensor) -> Tensor:
        """(B, H', W', T, C') float32."""
        y, filtered = self._around(x)
        weights = self._gated(self._kernels.time(filtered, self._time, self._time_bias, keep=True), filtered.shape)
        for target, pixels, weight in zip(y.flatten(1, 3), filtered.flatten(1, 3), weights, strict=True):
            # Not for all windows at once: several times slower in float32 where the weights are large.
            if pixels.dtype == target.dtype:
                target.addmm_(pixels, weight)
            else:
                target += torch.mm(pixels, weight.to(pixels.dtype))
        return y

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C', T) float32, means over the image."""
        y, filtered = self._around(x)
        sums = self._kernels.time(filtered, self._time, self._time_bias, keep=False)
        means = sums / math.prod(filtered.shape[1:3])
        return y.mean((1, 2)).baddbmm_(means, self._gated(sums, filtered.shape)).transpose(1, 2)

    def _around(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The shortcut (B, H', W', T, C') with all that is added to it, and the wide video, filtered in space."""
        narrow = self._expansion.narrow(x, self._stride)
        filtered = torch.empty(*narrow.shape[:4], len(self._time_bias), dtype=self._expansion.dtype)
        for first, images in self._expansion.wide(x):
            self._kernels.space(images, self._space, self._space_bias, filtered, first, self._stride)
        shortcut = torch.addcmul(self._constant, tile_channels(narrow, len(self._scale), dim=-1), self._scale)
        return shortcut.contiguous(), filtered

    def _gated(self, sums: Tensor, shape: torch.Size) -> Tensor:
        """Weights (B, C, C') of the projection, of the sums (B, T, C) over the pixels of a video."""
        mean = sums.sum(1) / math.prod(shape[1:4])
        gate = functional.linear(functional.silu(functional.linear(mean, *self._reduce)), *self._expand).sigmoid()
        return gate[:, :, None] * self._project


def _parts(images: int, size: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Room for a few images at a time, always the same: the number of the first, and (n, H, W, C)."""
    at_once = min(images, max(1, _ROOM // (math.prod(size) * dtype.itemsize)))
    room = torch.empty(at_once, *size, dtype=dtype)
    for first in range(0, images, at_once):
        yield first, room[: images - first]


def _filter(layer: ChannelConv) -> tuple[Tensor, Tensor]:
    """Weights (taps, C) and bias (C,) of a depth-wise filter."""
    return _padded(layer.conv.weight.flatten(1).t()), _padded(layer.conv.bias)


def _padded(weights: Tensor | None) -> Tensor:
    """Float32 weights (..., C), contiguous, with zeros for the channels that make C a multiple."""
    assert weights is not None
    return functional.pad(weights.float(), (0, -weights.shape[-1] % CHANNELS)).contiguous()
