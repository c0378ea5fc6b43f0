"""Print, compose or update the settings."""

import sys
from typing import Annotated

import typer
import yaml
from rich.console import Console

from sensorium.config import load
from sensorium.errors import ConfigError
from sensorium.experiments import compose_valid, update_pipeline, write_params
from sensorium.files import write_text
from sensorium.paths import PARAMS_FILE, Paths


def run(
    paths: Paths,
    preset: Annotated[str | None, typer.Option(help="Preset of conf/preset/; params.yaml by default.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("-S", "--set", help="Change the preset, such as `dataset.raw=/folder`.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Compose the preset into params.yaml.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite changes of params.yaml not committed.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Derive the section pipeline anew after editing params.yaml by hand.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Check them, and note it in data/settings.txt.")] = False,
) -> None:
    """Print the settings in force, or a preset's, after checking them; or write them.

    Examples: `sensorium config`, `sensorium config --preset competition --write`.

    Raises:
        ConfigError: the preset does not exist, the settings are not valid, or uncommitted changes would be lost.
    """
    params = paths.root / PARAMS_FILE
    if preset is None and (overrides or write):
        raise ConfigError("--preset: -S and --write need one.", "Add for example --preset demo.")
    if check:
        load(params)
        write_text(paths.settings_checked, f"The settings of {PARAMS_FILE} are valid.\n")
    elif update:
        _print(f"{params}: {'section pipeline updated' if update_pipeline(paths.root) else 'up to date'}.")
    elif preset is None:
        yaml.safe_dump(load(params).model_dump(mode="json", exclude_none=True), sys.stdout, sort_keys=False)
    elif write:
        _print(f"Composed {write_params(paths.root, preset, overrides or [], force=force)} from the preset {preset}.")
    else:
        sys.stdout.write(compose_valid(paths.root, preset, overrides or []))


def _print(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)
