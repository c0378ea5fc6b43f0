"""Verbs around the model and its training."""

from pathlib import Path
from typing import Annotated

import typer

from sensorium.cli.options import Experiment, Folds, context
from sensorium.paths import Paths, find_root

_Folder = Annotated[Path, typer.Argument(help="Folder of the published form: <experiment>/fold_<k>/model-*.pth.")]


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    panel = "Training"
    app.command(rich_help_panel=panel)(train)
    app.command(rich_help_panel=panel)(model)
    app.command(rich_help_panel=panel)(states)
    weights = typer.Typer(help="Take in or give out weights in the published form.", no_args_is_help=True)
    weights.command("import")(import_weights)
    weights.command("export")(export_weights)
    app.add_typer(weights, name="weights", rich_help_panel=panel)


def train(experiment: Experiment, folds: Folds = None) -> None:
    """Train folds of an experiment; a killed training goes on where it was.

    Examples: `sensorium train -e true_batch_001`, `sensorium train -e true_batch_001 -f 0,2`.
    """
    from sensorium.tracking.courier import start_early

    ctx = context()
    ctx.config.experiment(experiment)
    numbers = ctx.folds(folds)
    start_early(ctx.paths)  # MLflow is imported there while PyTorch is imported here

    from sensorium.stages import train as stage

    for fold in numbers:
        stage.run(ctx.config, ctx.paths, experiment, fold)


def model(
    experiment: Experiment,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Print the layers of an experiment's model: shapes, parameters, multiply-adds."""
    from sensorium.stages import model as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths, experiment, as_json=as_json)


def states(
    unwanted: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="ID", help="Remove this one, as listed, or `all`; repeatable."),
    ] = None,
) -> None:
    """List what unfinished trainings go on from: fold, epoch, size, age.

    States of settings that were given up stay until they are removed with `--remove`; what is being
    trained at the moment is never removed.
    """
    from sensorium.stages import states as stage

    stage.run(Paths(find_root()), unwanted or [])


def import_weights(
    folder: _Folder,
    experiment: Experiment,
    force: Annotated[bool, typer.Option("--force", help="Replace trained folds that are there already.")] = False,
) -> None:
    """Take in published weights as the trained folds of an experiment.

    FOLDER holds the experiment's folder, or is it. All folds of params.yaml are taken in, or none: a
    damaged, foreign or incomplete folder changes nothing. `dvc commit` and `dvc push -r REMOTE` publish them then.
    """
    from sensorium.stages import weights as stage

    ctx = context()
    stage.run_import(ctx.config, ctx.paths, folder, experiment, force=force)


def export_weights(folder: _Folder, experiment: Experiment) -> None:
    """Write the trained folds of an experiment in the published form.

    They go to FOLDER/<experiment>, which must not exist yet. Every tensor is the same to the last bit.
    """
    from sensorium.stages import weights as stage

    ctx = context()
    stage.run_export(ctx.config, ctx.paths, folder, experiment)
