"""Print, compose or update the settings."""

import sys
from collections.abc import Sequence

import yaml
from rich.console import Console

from sensorium.config import load, parse
from sensorium.experiments import compose, update_pipeline, write_params
from sensorium.files import write_text
from sensorium.paths import PARAMS_FILE, Paths


def show(paths: Paths, preset: str | None, overrides: Sequence[str]) -> None:
    """Write the settings to standard output as YAML: params.yaml as it is, or a preset's.

    Raises:
        ConfigError: the preset does not exist, or the settings are not valid.
    """
    if preset is None:
        tree = load(paths.root / PARAMS_FILE).model_dump(mode="json", exclude_none=True)
        yaml.safe_dump(tree, sys.stdout, sort_keys=False)
        return
    text = compose(paths.root, preset, overrides)
    parse(yaml.safe_load(text), f"conf/preset/{preset}.yaml")
    sys.stdout.write(text)


def check(paths: Paths) -> None:
    """Check params.yaml, and note that it is valid where the first stage of the graph waits for it.

    Raises:
        ConfigError: the settings are not valid.
    """
    load(paths.root / PARAMS_FILE)
    write_text(paths.settings_checked, f"The settings of {PARAMS_FILE} are valid.\n")


def write(paths: Paths, preset: str, overrides: Sequence[str], *, force: bool) -> None:
    """Compose a preset into params.yaml.

    Raises:
        ConfigError: the settings are not valid, or uncommitted changes would be lost.
    """
    _say(f"Composed {write_params(paths.root, preset, overrides, force=force)} from the preset {preset}.")


def update(paths: Paths) -> None:
    """Derive the section `pipeline` of params.yaml anew after it was edited by hand.

    Raises:
        ConfigError: the settings are not valid.
    """
    changed = update_pipeline(paths.root)
    _say(f"{paths.root / PARAMS_FILE}: {'section pipeline updated' if changed else 'up to date'}.")


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)
