"""Verbs around the model and its training."""

import typer

from sensorium.cli.options import Experiment, Folds, context


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    app.command(rich_help_panel="Training")(train)


def train(experiment: Experiment, folds: Folds = None) -> None:
    """Train folds of an experiment; a killed training goes on where it was.

    Examples: `sensorium train -e true_batch_001`, `sensorium train -e true_batch_001 -f 0,2`.
    """
    from sensorium.stages import train as stage

    ctx = context()
    ctx.config.experiment(experiment)
    for fold in ctx.folds(folds):
        stage.run(ctx.config, ctx.paths, experiment, fold)
