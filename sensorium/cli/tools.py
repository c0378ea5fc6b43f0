"""Verbs that help around the pipeline."""

from typing import Annotated

import typer


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    app.command(rich_help_panel="Tools")(config)


def config(
    preset: Annotated[str | None, typer.Option(help="Preset of conf/preset/; params.yaml by default.")] = None,
) -> None:
    """Print the settings in force, or a preset's, after checking them."""
    from sensorium.stages import config as stage

    stage.run(preset)
