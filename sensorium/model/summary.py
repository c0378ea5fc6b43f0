"""What each layer gives, holds and costs, worked out without weights or data.

The legend of shapes is in `sensorium.model.layers`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sensorium.architectures import ModelConfig
from sensorium.model.architecture import build
from sensorium.model.layers import INPUT_CHANNELS, Layer


@dataclass(frozen=True)
class LayerSummary:
    """One row of the summary, for one window."""

    name: str
    """Where it is in the model, such as core.blocks.3.time."""
    output: tuple[int, ...]
    """(C, T, H, W) of a video, (F, T) of a sequence, (N, T) of a readout."""
    parameters: int
    """Weights that training changes."""
    multiply_adds: int
    """Multiply-adds of convolutions and linear maps; norms, activations and sums are not counted."""


def summarise(config: ModelConfig, mice: Mapping[str, int], frames: int) -> list[LayerSummary]:
    """Describe the model layer by layer.

    Args:
        config: the model.
        mice: number of neurons by mouse.
        frames: T, frames of the window.
    """
    with torch.device("meta"):
        model = build(config, list(mice.values())).eval()
        window = torch.empty(1, INPUT_CHANNELS, frames, *config.canvas)
    layers: list[LayerSummary] = []

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        shape = (shape[-1], *shape[:-1]) if output.ndim == 5 and isinstance(module, Layer) else shape
        parameters = sum(weight.numel() for weight in module.parameters())
        layers.append(LayerSummary(name, shape, parameters, _multiply_adds(module, output, math.prod(shape[1:]))))

    names = {f"readouts.{index}": f"readouts.{index} {mouse}" for index, mouse in enumerate(mice)}
    for name, module in _listed(model):
        label = names.get(name, name)
        module.register_forward_hook(lambda part, _, output, label=label: note(label, part, output))
    with torch.no_grad():
        model(window)
    return layers


def _multiply_adds(module: nn.Module, output: Tensor, positions: int) -> int:
    if isinstance(module, Layer):
        return module.multiply_adds(positions)
    if isinstance(module, (nn.Linear, _ConvNd)):
        return output[0].numel() // len(module.weight) * module.weight.numel()
    return 0


def _listed(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Each `Layer` as a whole, and whatever else holds parameters itself."""
    if isinstance(module, Layer) or next(module.parameters(recurse=False), None) is not None:
        yield name, module
        return
    for child, part in module.named_children():
        yield from _listed(part, f"{name}.{child}" if name else child)
