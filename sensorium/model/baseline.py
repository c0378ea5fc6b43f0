"""The Sensorium 2023 competition's own baseline, as its starter kit describes it (arXiv:2305.19654).

A core of factorised 3D convolutions sees the video and the behaviour; a readout per mouse looks at one point of the
core's output for each neuron, drawn from a Gaussian in training (Lurz et al. 2021,
https://openreview.net/forum?id=Tp7kI90Htd), where the neuron's place in cortex predicts the point and the pupil's
centre shifts all points of a frame. What differs from the starter kit, which trains on long clips at 30 Hz and on
normalised data: inputs are normalised by what passes in training, responses are scaled by one number, temporal kernels
are padded so that every frame of a window has an output, and the optimizer's weight decay stands for the smoothness of
the first kernels. The legend of shapes is in `sensorium.model.layers`; features of a window are (B, T, H, W, F + 2),
the last two being the pupil's centre.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensorium.model.architecture import Model
from sensorium.model.baseline_config import BaselineConfig
from sensorium.model.layers import Layer, absorb, initialise
from sensorium.model.video import VideoNorm, as_images, as_video

SEEN_CHANNELS = 3
"""Input channels that the core sees: the video and two of behavior."""


class RunningNorm(nn.Module):
    """Normalise channels by the mean and variance of all inputs seen in training, whatever the batch at hand."""

    mean: Tensor
    square: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        """Make the norm of tensors whose last axis has `channels` entries."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("square", torch.ones(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same, float32."""
        x = x.float()
        if self.training:
            self._note(x)
        variance = (self.square - self.mean.square()).clamp(min=1e-6)
        return (x - self.mean) * variance.rsqrt()

    @torch.no_grad()
    def _note(self, x: Tensor) -> None:
        """Take a batch into the means over all batches."""
        self.batches.add_(1)
        values = x.flatten(0, -2)
        self.mean.lerp_(values.mean(0), 1 / self.batches)
        self.square.lerp_(values.square().mean(0), 1 / self.batches)


class FactorisedConv(Layer):
    """A spatial convolution, a causal temporal one, batch norm and ELU."""

    def __init__(self, inputs: int, outputs: int, spatial: int, temporal: int, stride: int) -> None:
        """Make the layer; the spatial kernel's side and `stride` are in pixels, the temporal one's length in frames."""
        super().__init__()
        self.space = nn.Conv2d(inputs, outputs, spatial, stride, bias=False)
        self.time = nn.Conv2d(outputs, outputs, (temporal, 1), bias=False)
        self.norm: nn.Module = VideoNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H', W', C')."""
        video = as_video(self.space(as_images(x)), len(x))
        images = video.flatten(2, 3).permute(0, 3, 1, 2)  # (B, C', T, H'·W'), channels-last
        # Before the window the first frame stood still.
        history = images[:, :, :1].expand(-1, -1, self.time.kernel_size[0] - 1, -1)
        filtered = self.time(torch.cat([history, images], dim=2)).permute(0, 2, 3, 1).reshape(video.shape)
        return functional.elu(self.norm(filtered))

    def fuse(self) -> None:
        """Fold the norm into the temporal convolution."""
        if isinstance(self.norm, VideoNorm):
            absorb(self.time, self.norm)
            self.norm = nn.Identity()


class FactorisedCore(nn.Module):
    """Layers over the video and the behavior, normalised."""

    def __init__(self, config: BaselineConfig) -> None:
        """Make the core of `config`."""
        super().__init__()
        self.norm = RunningNorm(SEEN_CHANNELS)
        inputs = (SEEN_CHANNELS, *config.features[:-1])
        kernels = (config.spatial_kernels, config.temporal_kernels, config.strides)
        self.layers = nn.Sequential(
            *(FactorisedConv(*layer) for layer in zip(inputs, config.features, *kernels, strict=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 5, T, H, W) to (B, T, H', W', F)."""
        features: Tensor = self.layers(self.norm(x[:, :SEEN_CHANNELS].permute(0, 2, 3, 4, 1)))
        return features


class ConvGRU(Layer):
    """A gated recurrent unit (arXiv:1406.1078) whose maps are convolutions (arXiv:1511.06432)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        """Make the layer; `kernel` is odd, pixels."""
        super().__init__()
        self.outputs = outputs
        self.input = nn.Conv2d(inputs, 3 * outputs, kernel, padding=kernel // 2)
        self.gates = nn.Conv2d(outputs, 2 * outputs, kernel, padding=kernel // 2, bias=False)
        self.candidate = nn.Conv2d(outputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H, W, C'), the states after each frame."""
        driven = self.input(as_images(x)).unflatten(0, x.shape[:2])  # (B, T, 3 C', H, W)
        state = driven.new_zeros(len(x), self.outputs, *x.shape[2:4])
        states = []
        for reset, update, candidate in (frame.split(self.outputs, dim=1) for frame in driven.unbind(1)):
            from_reset, from_update = self.gates(state).chunk(2, dim=1)
            proposal = torch.tanh(candidate + self.candidate(state * torch.sigmoid(reset + from_reset)))
            state = torch.lerp(state, proposal, torch.sigmoid(update + from_update))
            states.append(state)
        return torch.stack(states, dim=1).permute(0, 1, 3, 4, 2)


class GaussianReadout(Layer):
    """One point of the features for each neuron, a linear map of the channels there, and ELU + 1."""

    places: Tensor

    def __init__(self, neurons: int, features: int, config: BaselineConfig) -> None:
        """Make the readout of a mouse with `neurons` neurons, from `features` channels."""
        super().__init__()
        self.scale = config.response_scale
        self.register_buffer("places", torch.zeros(neurons, 2))
        hidden, shifts = config.position_features, config.shifter_features
        self.position = nn.Sequential(nn.Linear(2, hidden), nn.ELU(), nn.Linear(hidden, 2), nn.Tanh())
        self.pupil = RunningNorm(2)
        widths = ((2, shifts), (shifts, shifts), (shifts, 2))
        self.shifter = nn.Sequential(*(part for pair in widths for part in (nn.Linear(*pair), nn.Tanh())))
        self.sigma = nn.Parameter(torch.empty(neurons, 2, 2))
        self.weight = nn.Parameter(torch.full((neurons, features), 1 / features))
        self.bias = nn.Parameter(torch.zeros(neurons))
        if not self.sigma.is_meta:
            nn.init.uniform_(self.sigma, -config.position_sigma, config.position_sigma)

    def locate(self, coordinates: Tensor) -> None:
        """Take over (N, 3) positions in cortex; their first two axes, centred and scaled, predict positions."""
        centred = (coordinates - coordinates.mean(0))[:, :2]
        self.places.copy_(centred / centred.abs().max().clamp(min=1e-6))

    def points(self, frames: int) -> Tensor:
        """Positions of the neurons in the image, a draw for each frame in training.

        Returns:
            (frames or 1, N, 2), column and row between -1 and 1.
        """
        mean: Tensor = self.position(self.places)
        if not self.training:
            return mean[None]
        draws = torch.randn(frames, *mean.shape, device=mean.device)
        return (mean + torch.einsum("ncd,bnd->bnc", self.sigma, draws)).clamp(-1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, H, W, F + 2) to (B, N, T), positive."""
        windows, frames = features.shape[:2]
        maps = as_images(features[..., :-2])
        pupil = features[:, :, 0, 0, -2:].flatten(0, 1)
        points = self.points(len(pupil)) + self.shifter(self.pupil(pupil))[:, None]
        seen = functional.grid_sample(maps.float(), points[:, :, None].float(), align_corners=True)[..., 0]
        drive = torch.einsum("bcn,nc->bn", seen, self.weight) + self.bias
        responses = self.scale * (functional.elu(drive) + 1)
        return responses.view(windows, frames, -1).transpose(1, 2)

    def multiply_adds(self, positions: int) -> int:
        """Four taps of each channel and its weight, for every neuron and frame."""
        return 5 * self.weight.numel() * positions


class Baseline(Model[BaselineConfig]):
    """The model; the recurrent layer, where there is one, is its cortex."""

    def __init__(self, config: BaselineConfig, neurons: Sequence[int]) -> None:
        """Make the model; see `Model`."""
        super().__init__(config, neurons)
        self.core = FactorisedCore(config)
        width = config.features[-1]
        if config.recurrent_features is not None:
            self.cortex = ConvGRU(width, config.recurrent_features, config.recurrent_kernel)
            width = config.recurrent_features
            initialise(self.cortex)
        initialise(self.core)
        self.readouts = nn.ModuleList(GaussianReadout(count, width, config) for count in self.neurons)

    def locate(self, coordinates: Sequence[Tensor]) -> None:
        """Let the readouts predict positions from places in cortex."""
        for readout, places in zip(self.readouts, coordinates, strict=True):
            assert isinstance(readout, GaussianReadout)
            readout.locate(places)

    def features(self, x: Tensor) -> Tensor:
        """(B, 5, T, H, W) to (B, T, H', W', F + 2)."""
        maps = super().features(x)
        # The mean, because inside a CutMix box the planes hold the partner's values.
        pupil = x[:, SEEN_CHANNELS:].mean((3, 4)).transpose(1, 2)[:, :, None, None]  # (B, T, 1, 1, 2)
        return torch.cat([maps.float(), pupil.expand(*maps.shape[:4], 2)], dim=-1)

    def widest_activation(self, frames: int) -> int:
        """The widest layer of the core, the GRU's gates, or the points of the largest readout."""
        config = self.config
        sizes = [config.canvas, *config.map_sizes]
        widest = max(
            width * math.prod(size) for width, size in zip((SEEN_CHANNELS, *config.features), sizes, strict=True)
        )
        gates = 3 * (config.recurrent_features or 0) * math.prod(sizes[-1])
        points = (config.recurrent_features or config.features[-1]) * max(self.neurons)
        return max(widest, gates, points) * frames
