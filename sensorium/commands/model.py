"""`sensorium model`: what the layers of an experiment's model give, hold and cost."""

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sensorium.commands.options import Experiment
from sensorium.config import Config
from sensorium.data.neurons import count_neurons
from sensorium.model.summary import LayerSummary, summarise
from sensorium.paths import Paths


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
        print(json.dumps(_tree(experiment, layers), indent=2))  # noqa: T201 - output for programs, on stdout
        return
    console = Console()
    console.print(_table(experiment, layers))
    console.print(
        "One window. Multiply-adds of convolutions and linear maps; norms and activations are free.", soft_wrap=True
    )


def _totals(layers: list[LayerSummary]) -> tuple[int, int]:
    return sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers)


def _tree(experiment: str, layers: list[LayerSummary]) -> dict[str, Any]:
    parameters, multiply_adds = _totals(layers)
    rows = [dataclasses.asdict(layer) for layer in layers]
    return {"experiment": experiment, "parameters": parameters, "multiply_adds": multiply_adds, "layers": rows}


def _table(experiment: str, layers: list[LayerSummary]) -> Table:
    table = Table(title=f"Model of {experiment}", title_justify="left")
    table.add_column("layer", overflow="fold")
    for heading in ("output", "parameters", "multiply-adds"):
        table.add_column(heading, justify="right")
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
