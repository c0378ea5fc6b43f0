"""The verb that searches hyper-parameters."""

from pathlib import Path
from typing import Annotated

import typer

from sensorium.cli.options import Experiment, context


def add_commands(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Training")(sweep)


def sweep(
    experiment: Experiment,
    space: Annotated[Path, typer.Option("--space", help="What to search, such as conf/sweep/quick.yaml.")],
    trials: Annotated[int, typer.Option("--trials", help="Trials in all, with those that are over.")] = 20,
    folds: Annotated[
        str | None, typer.Option("-f", "--folds", help="Folds of each trial, joined by commas. Default: the first.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep. Default: EXPERIMENT-SPACE.")] = None,
    best: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add the best settings to the pipeline as this experiment.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", help="Processes. Default: one a GPU, or 1.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs to lease, one a process, joined by commas: 0,1,2,3.")] = None,
    executor: Annotated[str, typer.Option(help="Where the processes run: local, slurm or ray.")] = "local",
    gpus_per_trial: Annotated[
        int, typer.Option(min=0, help="GPUs that each process asks the cluster of --executor for.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Search hyper-parameters with Optuna; a killed sweep goes on where it was, any number of processes may join.

    Examples: `sensorium sweep -e true_batch_001 --space conf/sweep/quick.yaml --trials 8`, the same with `-j 2`,
    with `--executor slurm -j 8 --gpus-per-trial 1`, or with `--best tuned` once it is over.
    """
    from sensorium.tracking.courier import start_early

    ctx = context()
    ctx.config.experiment(experiment)
    numbers = ctx.folds(folds)[: None if folds else 1]
    start_early(ctx.paths)  # MLflow is imported there while PyTorch is imported here

    from sensorium.stages import sweep as stage

    options = stage.Options(
        experiment, space, trials, tuple(numbers), name, best, jobs, gpus, gpus_per_trial, executor, worker, as_json
    )
    stage.run(ctx.config, ctx.paths, options)
