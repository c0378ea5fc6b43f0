"""Add an experiment: its file, its entry in the preset, its section in params.yaml."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from sensorium.errors import ConfigError, SensoriumError
from sensorium.experiments import add_experiment, write_experiment
from sensorium.files import load_yaml
from sensorium.paths import PARAMS_FILE, Paths


def run_new(
    paths: Paths,
    name: Annotated[str, typer.Argument(help="Name of the new experiment.")],
    like: Annotated[str, typer.Option("--like", help="Experiment that it is based on.")],
    settings: Annotated[
        list[str] | None, typer.Option("-S", "--set", help="What differs, such as `training.learning_rate=0.005`.")
    ] = None,
) -> None:
    """Write conf/experiment/NAME.yaml, and add the experiment to the pipeline.

    Example: `sensorium experiment new slow --like true_batch_001 -S training.learning_rate=0.005`.

    Raises:
        ConfigError: the name is taken or not valid, the base does not exist, or a setting is not valid; then
            nothing is written.
    """
    create(paths, name, like, _changes(settings or []))


def create(paths: Paths, name: str, base: str, changes: Mapping[str, Any]) -> None:
    """As `run_new`, with values by dotted key."""
    path = write_experiment(paths.root, name, base, changes)
    try:
        run_add(paths, name)
    except SensoriumError:
        path.unlink()
        raise


def run_add(paths: Paths, name: Annotated[str, typer.Argument(help="Name of a file in conf/experiment/.")]) -> None:
    """Add an experiment that has a file to the preset in force and to params.yaml.

    Raises:
        ConfigError: it has no file, or is not valid with the settings in force.
    """
    preset = add_experiment(paths.root, name)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{name}: added to {PARAMS_FILE} and to conf/preset/{preset}.yaml. `dvc repro` trains it.")


def _changes(settings: Sequence[str]) -> dict[str, Any]:
    changes = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not all(part.isidentifier() for part in key.split(".")):
            raise ConfigError(f"-S {setting}: no setting.", "Write it as training.learning_rate=0.005.")
        try:
            changes[key] = load_yaml(text)
        except yaml.YAMLError as fault:
            raise ConfigError(f"-S {setting}: the value is not valid YAML: {fault}", "Quote texts.") from fault
    return changes
