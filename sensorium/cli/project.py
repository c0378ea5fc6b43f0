"""Verbs that the entry points of MLproject call; each can be typed as well."""

from typing import Annotated

import typer

from sensorium.cli.options import Experiment, Split, check_split, context
from sensorium.errors import ConfigError
from sensorium.mice import FOLDS_SPLIT, TRACKS

ALL = "all"


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    group = typer.Typer(no_args_is_help=True, help="Run stages for `mlflow run`, with all that they need.")
    for verb in (install, run, train, predict, ensemble, submission, ingest):
        group.command()(verb)
    app.add_typer(group, name="project", rich_help_panel="Tools")


def install() -> None:
    """Let a bare `mlflow run .` use this environment, without pyenv; `make install` does it."""
    from sensorium.stages import project as stage

    stage.install(context().paths)


def run(stages: Annotated[list[str], typer.Argument(help="Stages of dvc.yaml, or `all`.")]) -> None:
    """Bring stages up to date, with all that they need."""
    from sensorium.stages import project as stage

    stage.run(context().paths, [] if stages == [ALL] else stages)


def train(
    experiment: Experiment,
    fold: Annotated[str, typer.Option("-f", "--fold", help="Fold to hold out, one of folds.train in params.yaml.")],
) -> None:
    """Train one fold, with all that it needs, in the MLflow run that `mlflow run` made."""
    from sensorium.stages import project as stage

    ctx = context()
    ctx.config.experiment(experiment)
    folds = ctx.folds(fold)
    if len(folds) != 1:
        raise ConfigError(f"fold {fold!r}: one fold is one MLflow run.", "Name one fold; run several times for more.")
    stage.train(ctx.config, ctx.paths, experiment, folds[0])


def predict(experiment: Experiment, split: Split) -> None:
    """Predict a split, with all that it needs."""
    from sensorium.stages import project as stage

    ctx = context()
    ctx.config.experiment(experiment)
    stage.run_outputs(ctx.paths, [ctx.paths.predictions(experiment, check_split(split))])


def ensemble(split: Split) -> None:
    """Predict a test split with the ensemble, with all that it needs."""
    from sensorium.stages import project as stage

    ctx = context()
    if check_split(split) == FOLDS_SPLIT:
        raise ConfigError(f"split {split!r}: the registered pair predicts test splits.", "`evaluate` scores the folds.")
    members = ",".join(sorted(ctx.config.ensemble.members))
    stage.run_outputs(ctx.paths, [ctx.paths.predictions(members, split)])


def submission(track: Annotated[str, typer.Option("-t", "--track", help=f"One of: {', '.join(TRACKS)}.")]) -> None:
    """Write a track's submission, with all that it needs."""
    from sensorium.stages import project as stage

    if track not in TRACKS:
        raise ConfigError(f"track {track!r}: does not exist.", f"Choose one of: {', '.join(TRACKS)}.")
    ctx = context()
    stage.run_outputs(ctx.paths, [ctx.paths.submission(track)])


def ingest(mouse: Annotated[str, typer.Option("-m", "--mouse", help="Mouse of params.yaml, or `all`.")] = ALL) -> None:
    """Write raw mice into their stores, with all that they need."""
    from sensorium.stages import project as stage

    ctx = context()
    stage.run_outputs(ctx.paths, [ctx.paths.store(name) for name in ctx.mice(None if mouse == ALL else mouse)])
