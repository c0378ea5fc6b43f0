"""Verbs that predict, score, combine and hand in."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sensorium.cli.options import Experiment, Experiments, Mouse, Split, check_split, context
from sensorium.errors import ConfigError
from sensorium.mice import TRACKS


class MiceChoice(StrEnum):
    """Sets of mice that can be predicted."""

    NEW = "new"
    OLD = "old"
    ALL = "all"


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    panel = "Prediction"
    app.command(rich_help_panel=panel)(predict)
    app.command(rich_help_panel=panel)(evaluate)
    app.command(rich_help_panel=panel)(weigh)
    app.command(rich_help_panel=panel)(ensemble)
    app.command(rich_help_panel=panel)(submission)
    app.command(rich_help_panel=panel)(score)
    app.command(rich_help_panel=panel)(respond)
    app.command(rich_help_panel=panel)(report)
    app.command(rich_help_panel=panel)(results)


def predict(
    experiment: Experiment,
    split: Split,
    dataset: Annotated[
        MiceChoice | None,
        typer.Option("-d", "--dataset", help="Which mice. Default: all for `folds`, new for a test split."),
    ] = None,
) -> None:
    """Predict a split with an experiment's trained folds.

    `-s folds` predicts every fold's trials with the fold's own model; a test split is predicted
    with the mean of all folds.
    """
    from sensorium.stages import predict as stage

    ctx = context()
    ctx.config.experiment(experiment)
    stage.run(ctx.config, ctx.paths, experiment, check_split(split), dataset.value if dataset else None)


def evaluate() -> None:
    """Score the out-of-fold predictions of all experiments and of their ensemble."""
    from sensorium.stages import evaluate as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)


def weigh(
    experiments: Experiments,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. Default: reports/weights/<experiments>.json.")
    ] = None,
) -> None:
    """Fit an ensemble's weights on out-of-fold predictions, and print their gain by nested folds."""
    from sensorium.stages import weigh as stage

    ctx = context()
    names = ctx.experiments(experiments)
    stage.run(ctx.config, ctx.paths, names, output or ctx.paths.weights(names))


def ensemble(
    experiments: Experiments,
    split: Split,
    pin: Annotated[
        Path | None,
        typer.Option(help="Pin of a registered pair: predict with its models, loaded from the model registry."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="File of weights, from `sensorium weigh`. Default: equal weights.")
    ] = None,
) -> None:
    """Average the predictions of several experiments.

    Without `--pin` the experiments' predictions on disk are averaged; with it, the models of the
    registered pair are loaded from MLflow's model registry, verified, and predict anew, with the
    weights that the pin names where `ensemble.weights` is `fitted`.
    """
    from sensorium.stages import ensemble as stage

    if pin is not None and weights is not None:
        raise ConfigError("--weights: a registered pair brings its own.", "Leave out --pin or --weights.")
    ctx = context()
    names = ctx.experiments(experiments)
    if pin is None and weights is None and ctx.config.ensemble.weights == "fitted":
        weights = ctx.paths.weights(names)
    stage.run(ctx.config, ctx.paths, names, check_split(split), pin, weights)


def submission(
    experiments: Experiments,
    track: Annotated[str, typer.Option("-t", "--track", help=f"Track, one of: {', '.join(TRACKS)}.")],
) -> None:
    """Write a track's two submission files and the zip to hand in."""
    from sensorium.stages import submission as stage

    ctx = context()
    if track not in TRACKS:
        raise ConfigError(f"track {track!r}: does not exist.", f"Choose one of: {', '.join(TRACKS)}.")
    stage.run(ctx.config, ctx.paths, ctx.experiments(experiments), track)


def score(
    file: Annotated[Path, typer.Argument(help="A submission: the zip of a track, or one parquet file.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the raw mice. Default: dataset.raw of params.yaml.")
    ] = None,
) -> None:
    """Check a submission, anybody's, and score it where the responses are known."""
    from sensorium.stages import score as stage
    from sensorium.tracking.adopted import tell_measured

    ctx = context()
    scores = stage.run(ctx.config.evaluation, file, data or ctx.config.raw_folder(ctx.paths.root))
    tell_measured(ctx.paths, scores)


def respond(
    video: Annotated[Path, typer.Option("--video", help="A video: .npy (frames, rows, columns), .gif or .mp4.")],
    mouse: Mouse = None,
    behavior: Annotated[
        Path | None,
        typer.Option(
            "--behavior", help="Pupil dilation, running speed, pupil centre: .npy (4, frames). Default: means."
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1, help="Frames a second, if not the file's own.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder. Default: reports/responses/<video>.")
    ] = None,
) -> None:
    """Predict a mouse's responses to your own video with the registered student."""
    from sensorium.stages import respond as stage

    ctx = context()
    name = ctx.mice(mouse)[0]
    stage.run(
        ctx.config,
        ctx.paths,
        video,
        name,
        output or ctx.paths.root / "reports" / "responses" / video.stem,
        behavior,
        fps,
    )


def report() -> None:
    """Draw the results: one HTML page and its figures."""
    from sensorium.stages import report as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)


def results() -> None:
    """Print the scores, a row per experiment, and what to type next."""
    from sensorium.stages import results as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)
