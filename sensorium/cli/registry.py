"""Verbs around MLflow: the model registry and the runs."""

from typing import Annotated

import typer

from sensorium.cli.options import context

DRIFT = 3
"""Exit code of `reproduce` when the training comes out differently."""


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    app.command(rich_help_panel="Registry")(register)
    app.command(rich_help_panel="Registry")(promote)
    app.command(rich_help_panel="Registry")(rollback)
    app.command(rich_help_panel="Registry")(compare)
    app.command(rich_help_panel="Registry")(reproduce)
    app.command(rich_help_panel="Registry")(sync)
    group = typer.Typer(no_args_is_help=True, help="Look after the model registry.")
    group.command()(restore)
    app.add_typer(group, name="registry", rich_help_panel="Registry")


def register() -> None:
    """Register the trained teacher and student as a pair, and pin what was registered."""
    from sensorium.stages import register as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)


def promote(
    version: Annotated[
        int | None, typer.Option(min=1, help="Version of sensorium-pair; the pinned one by default.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, help="How much worse than the champion it may be, with 95% confidence.")
    ] = 0.0,
    new_data: Annotated[bool, typer.Option("--new-data", help="The data changed for good: do not compare.")] = False,
) -> None:
    """Make a registered pair the champion, if it scores better out of fold than the present one.

    The champion is what `models:/sensorium-pair@champion` serves.
    """
    from sensorium.stages import promote as stage

    stage.run(context().paths, version, margin, new_data)


def rollback() -> None:
    """Make the pair before the present champion the champion again."""
    from sensorium.stages import promote as stage

    stage.run_rollback(context().paths)


def compare(
    candidate: Annotated[
        str | None, typer.Argument(help="Experiment (or several, joined by commas), run id, or pair version.")
    ] = None,
    reference: Annotated[str | None, typer.Argument(help="What to compare with; for pairs also `champion`.")] = None,
) -> None:
    """Tell whether one experiment, run or pair is better than another, with 95% intervals and a figure.

    With one experiment all others are compared with it, with none all with the best.

    Examples: `sensorium compare distillation_001 true_batch_001`, `sensorium compare 3 champion`.
    """
    from sensorium.stages import compare as stage

    ctx = context()
    if candidate is None or reference is None:
        stage.run_all(ctx.config, ctx.paths, candidate)
    else:
        stage.run(ctx.config, ctx.paths, candidate, reference)


def reproduce(
    run: Annotated[str, typer.Argument(help="Id of a fold's run, or a fold such as true_batch_001/fold_0.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative difference of weights and metrics; 0: equal bits only.")
    ] = 1e-3,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder that it was trained in.")] = False,
) -> None:
    """Train a fold again from the code, data and settings that its run names, and compare bit by bit.

    The exit code is 0 for bitwise equal and within tolerance, 3 for drift.
    """
    from sensorium.stages import reproduce as stage

    ctx = context()
    if stage.run(ctx.config, ctx.paths, run, tolerance, keep).verdict == "drift":
        raise typer.Exit(DRIFT)


def sync() -> None:
    """Deliver what MLflow has not received yet, because the server was away or a training was killed."""
    from sensorium.stages import sync as stage

    stage.run(context().paths)


def restore() -> None:
    """Register the trained folds again in a store that was lost, emptied or damaged."""
    from sensorium.stages import restore as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)
