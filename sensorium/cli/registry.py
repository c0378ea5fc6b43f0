"""Verbs around MLflow: the model registry and the runs."""

import typer

from sensorium.cli.options import context


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    app.command(rich_help_panel="Registry")(register)
    app.command(rich_help_panel="Registry")(sync)
    group = typer.Typer(no_args_is_help=True, help="Look after the model registry.")
    group.command()(restore)
    app.add_typer(group, name="registry", rich_help_panel="Registry")


def register() -> None:
    """Register the trained teacher and student as a pair, and pin what was registered."""
    from sensorium.stages import register as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)


def sync() -> None:
    """Deliver what MLflow has not received yet, because the server was away or a training was killed."""
    from sensorium.stages import sync as stage

    stage.run(context().paths)


def restore() -> None:
    """Register the trained folds again in a store that was lost, emptied or damaged."""
    from sensorium.stages import restore as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)
