"""What each layer gives, holds and costs, worked out without weights or data.

The legend of shapes is in `sensorium.model.layers`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sensorium.config import ModelConfig
from sensorium.model.core import INPUT_CHANNELS, Shortcut
from sensorium.model.cortex import CortexLayer
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.model.layers import GroupedLinear
from sensorium.model.readout import Readout
from sensorium.model.video import ChannelConv, GatedProjection, PointConv

_SHOWN = (PointConv, ChannelConv, GatedProjection, Shortcut, CortexLayer, Readout)


@dataclass(frozen=True)
class Layer:
    """One row of the summary, for one window."""

    name: str
    """Where it is in the model, such as core.blocks.3.time."""
    output: tuple[int, ...]
    """(C, T, H, W) of a video, (F, T) of a sequence, (N, T) of a readout."""
    parameters: int
    """Weights that training changes."""
    multiply_adds: int
    """Multiply-adds of convolutions and linear maps; norms, activations and sums are not counted."""


def summarise(config: ModelConfig, mice: Mapping[str, int], frames: int) -> list[Layer]:
    """Describe the model layer by layer.

    Args:
        config: the model.
        mice: number of neurons by mouse.
        frames: T, frames of the window.
    """
    with torch.device("meta"):
        model = DwiseNeuro(config, list(mice.values())).eval()
        window = torch.empty(1, INPUT_CHANNELS, frames, *config.canvas)
    layers: list[Layer] = []

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        shape = (shape[-1], *shape[:-1]) if output.ndim == 5 else shape
        parameters = sum(weight.numel() for weight in module.parameters())
        layers.append(Layer(name, shape, parameters, _multiply_adds(module, math.prod(shape[1:]))))

    names = {f"readouts.{index}": f"readouts.{index} {mouse}" for index, mouse in enumerate(mice)}
    for name, module in model.named_modules():
        if isinstance(module, _SHOWN):
            label = names.get(name, name)
            module.register_forward_hook(lambda part, _, output, label=label: note(label, part, output))
    with torch.no_grad():
        model(window)
    return layers


def _multiply_adds(module: nn.Module, positions: int) -> int:
    """Multiply-adds of a layer.

    Args:
        module: one of `_SHOWN`.
        positions: places of its output, over frames, rows and columns.
    """
    if isinstance(module, GatedProjection):
        gate = module.reduce.weight.numel() + module.expand.weight.numel()  # once a window
        return gate + module.project.weight.numel() * positions
    maps = [part for part in module.modules() if isinstance(part, (nn.Conv2d, GroupedLinear))]
    return sum(part.weight.numel() * positions for part in maps)
