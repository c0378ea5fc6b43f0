"""`sensorium model`: what the layers of an experiment's model give, hold and cost."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sensorium.architectures import ModelConfig
from sensorium.commands.options import Experiment, count_neurons
from sensorium.config import Config
from sensorium.model.architecture import build
from sensorium.model.layers import INPUT_CHANNELS, Layer
from sensorium.paths import Paths


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


def run(
    config: Config,
    paths: Paths,
    experiment: Experiment,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Print the layers of an experiment's model: shapes, parameters, multiply-adds.

    Raises:
        ConfigError: no such experiment, or a mouse of unknown size.
    """
    model = config.experiment(experiment).model
    layers = summarise(model, count_neurons(config, paths), config.window.frames)
    if as_json:
        parameters, multiply_adds = _totals(layers)
        rows = [dataclasses.asdict(layer) for layer in layers]
        tree = {"experiment": experiment, "parameters": parameters, "multiply_adds": multiply_adds, "layers": rows}
        print(json.dumps(tree, indent=2))  # noqa: T201 - output for programs, on stdout
        return
    console = Console()
    console.print(_table(experiment, layers))
    console.print(
        "One window. Multiply-adds of convolutions and linear maps; norms and activations are free.", soft_wrap=True
    )


def _totals(layers: list[LayerSummary]) -> tuple[int, int]:
    return sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers)


def _table(experiment: str, layers: list[LayerSummary]) -> Table:
    numbers = (Column(heading, justify="right") for heading in ("output", "parameters", "multiply-adds"))
    table = Table(Column("layer", overflow="fold"), *numbers, title=f"Model of {experiment}", title_justify="left")
    part = layers[0].name.partition(".")[0]
    for layer in layers:
        if layer.name.partition(".")[0] != part:
            part = layer.name.partition(".")[0]
            table.add_section()
        shape = " x ".join(map(str, layer.output))
        table.add_row(layer.name.partition("-Video")[0], shape, f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
    parameters, multiply_adds = _totals(layers)
    table.add_section()
    table.add_row("total", "", f"{parameters:,}", f"{multiply_adds:,}", style="bold")
    return table


def summarise(config: ModelConfig, mice: Mapping[str, int], frames: int) -> list[LayerSummary]:
    """Describe the model of some mice, given their numbers of neurons, for windows of so many frames."""
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
