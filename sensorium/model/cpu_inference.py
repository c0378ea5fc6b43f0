"""DwiseNeuro's core for inference on the CPU: the function of the folded `Core`, in fewer passes over memory.

* The stem and the first block's expansion are both linear, and the position encoding is a sum over axes: the wide video
  of the first block follows from the five inputs directly, without a matrix product.
* A block's expansion, SiLU, its two filters and the sums for squeeze-and-excitation are computed for a few rows at a
  time, of all frames, which stay in the cache. The expanded video is never whole in memory.
* The shortcut, all biases and the next block's position encoding are added to the projection in one pass.
* The last block's output is averaged over the image: its projection maps averages.

The legend of shapes is in `sensorium.model.layers`. The video of a window is held as (H, W, T, C) here: all frames of a
pixel lie together.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional

from sensorium.model.kernels import CHANNELS, GROUP, Filters, Kernels
from sensorium.model.layers import INPUT_CHANNELS, tile_channels
from sensorium.model.video import ChannelConv, PointConv, subsample

if TYPE_CHECKING:
    from sensorium.model.dwiseneuro import Block, Core

_ROOM = 1 << 22
"""Bytes of the rows that are expanded at a time."""


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
        self._shape = torch.Size((INPUT_CHANNELS, frames, *canvas))
        (height, width), shapes, encodings = canvas, [], []
        for block in blocks:
            shapes.append((height, width, frames))
            encodings.append(block.position.encoding(torch.Size((frames, height, width))))
            height, width = (math.ceil(side / block.shortcut.stride) for side in (height, width))
        expansions: list[_FromInputs | _FromVideo] = [
            _FromInputs(core.stem, blocks[0], encodings[0], dtype, kernels),
            *(_FromVideo(*pair, dtype, kernels) for pair in zip(blocks[1:], shapes[1:], strict=True)),
        ]
        self._blocks = [
            InferenceBlock(block, expansion, shape, after, kernels)
            for block, expansion, shape, after in zip(blocks, expansions, shapes, [*encodings[1:], None], strict=True)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 5, T, H, W) float32 to features (B, F, T) float32."""
        if x.dtype != torch.float32 or x.shape[1:] != self._shape:
            raise ValueError(f"windows of {tuple(self._shape)} in float32 are expected, not {tuple(x.shape)} {x.dtype}")
        with torch.autocast("cpu", enabled=False):
            return torch.stack([self._features(window) for window in x.contiguous()])

    def _features(self, x: Tensor) -> Tensor:
        """(5, T, H, W) to (F, T)."""
        for block in self._blocks[:-1]:
            x = block.video(x)
        return self._blocks[-1].pooled(x)


class _FromInputs:
    """The first block's input and the rows of its wide video, from the input (5, T, H, W)."""

    def __init__(self, stem: PointConv, block: "Block", encoding: Tensor, dtype: torch.dtype, kernels: Kernels) -> None:
        bias = stem.conv.bias
        assert bias is not None
        self.dtype = dtype
        self._kernels = kernels
        stem_weight = stem.conv.weight.flatten(1).t()  # (5, C)
        stride = block.shortcut.stride
        self._rows, self._columns = _taken(encoding.shape[1:3], stride)
        self.places = torch.arange(len(self._rows)), torch.arange(len(self._columns))
        self._stem = stem_weight.contiguous()
        self._constant = (encoding + bias).permute(1, 2, 0, 3)[self._rows][:, self._columns]  # (H', W', T, C)
        wide = _padded(block.expand.conv.weight.flatten(1).t())  # (C, C')
        self._weight = _product(stem_weight, wide)  # (5, C')
        by_row, by_column = _by_axes(encoding)
        self._by_row = _product(by_row + bias, wide) + _padded(block.expand.conv.bias)  # (H, T, C')
        self._by_column = _product(by_column, wide)  # (W, C')

    def narrow(self, x: Tensor) -> Tensor:
        """The block's input (H', W', T, C) where the shortcut takes it: at all `places` of what is returned."""
        inputs = x.permute(2, 3, 1, 0)[self._rows][:, self._columns]
        return _product(inputs, self._stem, self._constant)

    def prepared(self, x: Tensor) -> Tensor:
        """What `expand` takes."""
        return x

    def expand(self, x: Tensor, rows: Tensor, first: int) -> None:
        """Write rows (n, W, T, C') of the wide video, expanded and activated, the first of which has a number."""
        self._kernels.widen(x, self._weight, self._by_row, self._by_column, rows, first)


class _FromVideo:
    """A later block's input and the rows of its wide video, from the video (H, W, T, C) before it."""

    def __init__(self, block: "Block", shape: tuple[int, int, int], dtype: torch.dtype, kernels: Kernels) -> None:
        self.dtype = dtype
        self._kernels = kernels
        self._weight = _padded(block.expand.conv.weight.flatten(1).t()).to(dtype)
        self._bias = _padded(block.expand.conv.bias)
        self.places = _taken(shape[:2], block.shortcut.stride)

    def narrow(self, x: Tensor) -> Tensor:
        """The block's input (H, W, T, C), of which the shortcut takes the rows and columns of `places`."""
        return x

    def prepared(self, x: Tensor) -> Tensor:
        """What `expand` takes."""
        return x.to(self.dtype)

    def expand(self, x: Tensor, rows: Tensor, first: int) -> None:
        """Write rows (n, W, T, C') of the wide video, expanded and activated, the first of which has a number."""
        torch.mm(x[first : first + len(rows)].flatten(0, 2), self._weight, out=rows.flatten(0, 2))
        self._kernels.activate(rows, self._bias)


class InferenceBlock:
    """One block. Videos between blocks have the next block's position encoding added."""

    def __init__(
        self,
        block: "Block",
        expansion: _FromInputs | _FromVideo,
        shape: tuple[int, int, int],
        after: Tensor | None,
        kernels: Kernels,
    ) -> None:
        """Arrange the weights.

        Args:
            block: its norms are folded.
            expansion: where its wide video comes from.
            shape: H, W and T of its input.
            after: (T, H', W', C'), what the next block adds to its input, a sum over axes; None for the last block.
            kernels: the compiled parts.
        """
        self._expansion, self._kernels, self._shape = expansion, kernels, shape
        self._filters = Filters(*_filter(block.space), *_filter(block.time))
        self._stride = block.shortcut.stride
        gate, norm = block.project, block.shortcut.norm
        self._reduce = _padded(gate.reduce.weight), gate.reduce.bias
        self._expand = _padded(gate.expand.weight.t()).t(), _padded(gate.expand.bias)
        self._project = _padded(gate.project.weight).t()  # (C, C')
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self._scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (C')
        self._constant = norm.bias - norm.running_mean * self._scale + gate.project.bias
        self._constants = None if after is None else _by_axes(after + self._constant)

    def video(self, x: Tensor) -> Tensor:
        """(H', W', T, C') float32."""
        assert self._constants is not None
        filtered, sums = self._filtered(x, by_frame=False)
        weight = self._gated(sums.sum((0, 1, 2)), filtered.shape)
        projection = torch.mm(filtered.flatten(0, 2), weight.to(filtered.dtype)).view(*filtered.shape[:3], -1)
        y = projection if projection.dtype == torch.float32 else torch.empty_like(projection, dtype=torch.float32)
        narrow = self._expansion.narrow(x)
        self._kernels.shortcut(narrow, self._expansion.places, self._scale, *self._constants, projection, y)
        return y

    def pooled(self, x: Tensor) -> Tensor:
        """(C', T) float32, means over the image."""
        filtered, sums = self._filtered(x, by_frame=True)
        sums = sums.sum((0, 1))
        mean = sums / math.prod(filtered.shape[:2])
        rows, columns = self._expansion.places
        narrow = self._expansion.narrow(x)[rows][:, columns].mean((0, 1))
        shortcut = tile_channels(narrow, len(self._scale), dim=-1) * self._scale + self._constant
        # MKL's products of few rows depend on the number of threads, those of 16 do not.
        mean = functional.pad(mean, (0, 0, 0, -len(mean) % 16))
        return (torch.mm(mean, self._gated(sums.sum(0), filtered.shape))[: len(shortcut)] + shortcut).t()

    def _filtered(self, x: Tensor, *, by_frame: bool) -> tuple[Tensor, Tensor]:
        """The wide video after both filters, (H', W', T, C), and its sums, as `Kernels.filter` writes them."""
        height, width, frames = self._shape
        rows, columns = (math.ceil(side / self._stride) for side in (height, width))
        channels, dtype = len(self._filters.time_bias), self._expansion.dtype
        reach = round(len(self._filters.space) ** 0.5) // 2
        part = max(1, 2 * reach, _ROOM // (width * frames * channels * dtype.itemsize))
        room = torch.empty(min(height, 2 * part), width, frames, channels, dtype=dtype)
        filtered = torch.empty(rows, columns, frames, channels, dtype=dtype)
        sums = torch.zeros(rows, math.ceil(columns / GROUP), frames if by_frame else 1, channels)
        x = self._expansion.prepared(x)
        done = 0
        for first in range(0, height, part):
            last = min(first + part, height)
            slot = first % len(room)
            self._expansion.expand(x, room[slot : slot + last - first], first)
            ready = rows if last == height else max(done, (last - 1 - reach) // self._stride + 1)
            self._kernels.filter(room, self._filters, filtered, sums, (done, ready), height, self._stride)
            done = ready
        return filtered, sums

    def _gated(self, sums: Tensor, shape: torch.Size) -> Tensor:
        """Weights (C, C') of the projection, of the sums (C,) over a video of this shape."""
        mean = sums / math.prod(shape[:3])
        gate = functional.linear(functional.silu(functional.linear(mean, *self._reduce)), *self._expand).sigmoid()
        return gate[:, None] * self._project


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., C) by (C, C') to (..., C'), plus `bias`, with the same bits for any number of threads."""
    y = x[..., :1] * weight[0] if bias is None else torch.addcmul(bias, x[..., :1], weight[0])
    for channel in range(1, len(weight)):
        y.addcmul_(x[..., channel : channel + 1], weight[channel])
    return y


def _by_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """(H, T, C) and (W, C), whose sum is (T, H, W, C), itself a sum of functions of one axis each."""
    return x[:, :, 0].transpose(0, 1).contiguous(), (x[0, 0] - x[0, 0, :1]).contiguous()


def _taken(sides: Sequence[int], stride: int) -> tuple[Tensor, Tensor]:
    """Numbers of the rows and of the columns that `subsample` takes of so many."""
    rows, columns = (torch.arange(side, dtype=torch.float32).view(1, 1, side, 1, 1) for side in sides)
    return subsample(rows, stride).flatten().long(), subsample(columns, stride).flatten().long()


def _filter(layer: ChannelConv) -> tuple[Tensor, Tensor]:
    """Weights (taps, C) and bias (C,) of a depth-wise filter."""
    return _padded(layer.conv.weight.flatten(1).t()), _padded(layer.conv.bias)


def _padded(weights: Tensor | None) -> Tensor:
    """Float32 weights (..., C), contiguous, with zeros for the channels that make C a multiple."""
    assert weights is not None
    return functional.pad(weights.float(), (0, -weights.shape[-1] % CHANNELS)).contiguous()
