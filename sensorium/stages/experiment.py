"""Add an experiment: its file, its entry in the preset, its section in params.yaml."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console

from sensorium.errors import ConfigError, SensoriumError
from sensorium.experiments import add_experiment, write_experiment
from sensorium.paths import PARAMS_FILE, Paths


def new(paths: Paths, name: str, base: str, settings: Sequence[str]) -> None:
    """Write conf/experiment/<name>.yaml and add it to the pipeline.

    Args:
        paths: the project.
        name: of the new experiment.
        base: experiment that it is based on.
        settings: what differs, as `training.learning_rate=0.005`.

    Raises:
        ConfigError: the name is taken or of no use, the base does not exist, or a setting is not valid; then
            nothing is written.
    """
    create(paths, name, base, _changes(settings))


def create(paths: Paths, name: str, base: str, changes: Mapping[str, Any]) -> None:
    """As `new`, with values by dotted key."""
    path = write_experiment(paths.root, name, base, changes)
    try:
        add(paths, name)
    except SensoriumError:
        path.unlink()
        raise


def add(paths: Paths, name: str) -> None:
    """Add an experiment that has a file to the pipeline.

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
        changes[key] = yaml.safe_load(text)
    return changes
