"""The core of DwiseNeuro: inverted residual blocks over the video, shared by all mice.

A block is MobileNetV2's (arXiv:1801.04381) with EfficientNet's squeeze-and-excitation (arXiv:1905.11946),
its depth-wise filter split in space and time (R(2+1)D, arXiv:1711.11248). The legend of shapes is in
`sensorium.model.layers`.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from sensorium.model.dwiseneuro_config import DwiseNeuroConfig
from sensorium.model.layers import INPUT_CHANNELS, Layer, PositionEncoding, drop_path, tile_channels
from sensorium.model.video import ChannelConv, GatedProjection, PointConv, VideoNorm, as_images, as_video


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
        if self.stride > 1:
            size = [math.ceil(pixels / self.stride) for pixels in x.shape[2:4]]
            x = as_video(functional.interpolate(as_images(x), size=size, mode="nearest"), len(x))
        normalised: Tensor = self.norm(tile_channels(x, self.channels, dim=-1))
        return normalised


class Block(nn.Module):
    """Position encoding, then expand, filter in space, filter in time, gate, project, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float, config: DwiseNeuroConfig) -> None:
        """Make the block.

        Args:
            inputs: channels coming in.
            outputs: channels going out.
            stride: step of the spatial filter, pixels.
            drop_rate: rate of stochastic depth.
            config: kernels, expansion and reduction.
        """
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
        """Extract features of each frame.

        Args:
            x: (B, 5, T, H, W) input.

        Returns:
            (B, F, T).
        """
        x = self.stem(x.permute(0, 2, 3, 4, 1).contiguous())  # (B, T, H, W, C)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3)).transpose(1, 2)
