"""`sensorium sweep`: search an experiment's hyper-parameters, alone or with other processes."""

import json
import os
import re
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from optuna.trial import TrialState
from rich.console import Console

from sensorium import tracking
from sensorium.commands import experiment as experiments
from sensorium.commands.options import Executor, Experiment, Gpus, Jobs, select_folds
from sensorium.commands.trials import Options, print_results, show_progress, work_on
from sensorium.config import EXPERIMENT_NAME, EXPERIMENT_RULE, Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, PipelineError
from sensorium.experiments import experiment_file
from sensorium.files import atomic_file, digest_json, waiting_lock, write_text
from sensorium.lineage import provenance
from sensorium.paths import Paths
from sensorium.scheduler import executors
from sensorium.scheduler.coordinator import command_environment
from sensorium.stages import train
from sensorium.sweep import results
from sensorium.sweep.space import Space, candidates, load_space, settings_of
from sensorium.sweep.study import Sweep, SweepPlan
from sensorium.tracking.sweeps import SweepPlace
from sensorium.training.devices import launched_outside
from sensorium.training.transfer import start_digest

_TEACHER = "distillation.teacher"


def run(
    config: Config,
    paths: Paths,
    experiment: Experiment,
    space: Annotated[Path, typer.Option("--space", help="What to search, such as conf/sweep/quick.yaml.")],
    trials: Annotated[int, typer.Option("--trials", help="Trials in all, including finished ones.")] = 20,
    folds: Annotated[
        str | None, typer.Option("-f", "--folds", help="Folds of each trial, joined by commas. Default: the first.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep. Default: EXPERIMENT-SPACE.")] = None,
    best: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add the best settings to the pipeline as this experiment.")
    ] = None,
    jobs: Jobs = None,
    gpus: Gpus = None,
    executor: Executor = "local",
    gpus_per_trial: Annotated[
        int, typer.Option(min=0, help="GPUs that each process asks the cluster of --executor for.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Search hyper-parameters with Optuna; a killed sweep continues where it was, any number of processes may join.

    Examples: `sensorium sweep -e true_batch_001 --space conf/sweep/quick.yaml --trials 8`, the same with `-j 2`,
    with `--executor slurm -j 8 --gpus-per-trial 1`, or with `--best tuned` once it is over.
    """
    config.experiment(experiment)
    numbers = tuple(select_folds(config, folds)[: None if folds else 1])
    search(
        config,
        paths,
        Options(experiment, space, trials, numbers, name, best, jobs, gpus, gpus_per_trial, executor, worker, as_json),
    )


def search(config: Config, paths: Paths, options: Options) -> None:
    """Search, or continue a search; whoever ends its last trial writes the results.

    Raises:
        ConfigError: a bad option or space; nothing has been trained then.
        CheckpointError: a teacher's fold is missing.
        TrainingError: a training cannot continue, or was asked to stop.
        PipelineError: processes that were started here have failed.
    """
    if launched_outside():
        raise ConfigError("sweep: started by torchrun, whose processes would each train another trial.", "Use --jobs.")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    _check(paths, options)
    plan = make_plan(config, paths, options)
    sweep = Sweep(plan)
    if options.worker is None and _jobs(options) is not None:
        _start_workers(paths, options, sweep, console)
    else:
        work_on(sweep, config, paths, options, console)
    if options.worker is None:
        _conclude(config, paths, options, sweep, console)


def _check(paths: Paths, options: Options) -> None:
    if options.trials < 1:
        raise ConfigError(f"--trials {options.trials}: must be 1 or more.", "For example: --trials 20")
    if not EXPERIMENT_NAME.fullmatch(options.title):
        raise ConfigError(f"--name {options.title!r}: cannot name a sweep.", f"Choose another: {EXPERIMENT_RULE}.")
    if options.best is not None:
        if not EXPERIMENT_NAME.fullmatch(options.best):
            raise ConfigError(f"--best {options.best!r}: cannot name an experiment.", f"{EXPERIMENT_RULE}.")
        if experiment_file(paths.root, options.best).exists():
            raise ConfigError(f"{experiment_file(paths.root, options.best)}: exists already.", "Choose another name.")
    if options.executor == "local" and options.gpus_per_trial:
        raise ConfigError("--gpus-per-trial: on this machine GPUs are leased by id.", "For example: --gpus 0,1")
    if options.executor != "local" and options.gpus is not None:
        raise ConfigError(f"--gpus: --executor {options.executor} leases the cluster's.", "Use --gpus-per-trial 1.")
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: must be 1 or more.", "For example: --jobs 2")
    executors.check(options.executor, options.gpus_per_trial)


def make_plan(config: Config, paths: Paths, options: Options) -> SweepPlan:
    """What the sweep is, once all that its trials need is found sound.

    Raises:
        ConfigError: the space is not valid, or the experiment's settings refuse a value of it.
        DataError: stores or folds are missing.
        CheckpointError: a teacher's fold is missing.
    """
    settings = config.experiment(options.experiment)
    space = load_space(options.space, settings)
    warmup, epochs = 0, 0
    for candidate in candidates(space, config, options.experiment, str(options.space)):
        recipe = candidate.experiment(options.experiment).training
        warmup, epochs = max(warmup, recipe.warmup_epochs), max(epochs, recipe.warmup_epochs + recipe.cosine_epochs)
    Folds.load(paths.folds)
    for mouse in config.dataset.mice:
        MouseStore(paths.store(mouse))
    known = provenance(config, paths, options.experiment, options.folds[0], teacher=None)
    del known["fold"]
    starts = {str(fold): start_digest(config, paths, options.experiment, fold) for fold in options.folds}
    identity = {
        **known,
        **({"start": starts} if config.starts[options.experiment] else {}),
        "space": space.model_dump(mode="json"),
        "--folds": list(options.folds),
        "teacher": _teachers(config, paths, options, space),
    }
    folder = paths.state / "sweeps" / options.title
    epochs *= len(options.folds)
    return SweepPlan(options.title, folder, space, config.seed, options.trials, warmup, epochs, identity)


def _teachers(config: Config, paths: Paths, options: Options, space: Space) -> dict[str, str | None]:
    """Digests of the folds that trials learn from; all must be there."""
    settings = config.experiment(options.experiment)
    if settings.distillation is None:
        return {}
    names = [settings.distillation.teacher]
    if _TEACHER in space.parameters:
        names = list(space.parameters[_TEACHER].listed() or ())
    found: dict[str, str | None] = {}
    for name in names:
        distillation = settings.distillation.model_copy(update={"teacher": name})
        learner = settings.model_copy(update={"distillation": distillation})
        found |= {f"{name}/fold_{fold}": train.teacher_digest(learner, paths, fold) for fold in options.folds}
    return found


def _jobs(options: Options) -> int | None:
    """Number of processes to start; None where this one does the work."""
    if options.gpus is None and options.executor == "local" and options.jobs in {None, 1}:
        return None
    if options.jobs is not None:
        return options.jobs
    return len(executors.parse_gpus(options.gpus)) if options.gpus else 1


def _start_workers(paths: Paths, options: Options, sweep: Sweep, console: Console) -> None:
    """Let processes work on the sweep, and wait for them; a failure is an error where trials are left."""
    logs = sweep.plan.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    words = ["exec", "sensorium", "sweep", "--experiment", options.experiment, "--space", str(options.space.resolve())]
    words += ["--trials", str(options.trials), "--folds", ",".join(map(str, options.folds)), "--name", options.title]
    environment = command_environment(options.executor)
    started = [
        executors.Worker(shlex.join([*words, "--worker", name]), environment | lease, logs / f"{name}.log")
        for name, lease in _leases(options).items()
    ]
    console.print(f"{sweep.plan.name}: {len(started)} processes; their logs are in {logs}.")
    executor = executors.make_executor(options.executor, options.gpus_per_trial)
    with show_progress(sweep, console) as update:
        codes = executors.run_workers(executor, started, paths.root, update)
    failed = [worker.log for worker, code in zip(started, codes, strict=True) if code]
    if failed and not sweep.is_over():
        raise PipelineError(
            f"sweep {sweep.plan.name}: {len(failed)} of {len(started)} processes failed.",
            f"The reason is in {failed[0]}; the same command goes on.",
        )


def _leases(options: Options) -> dict[str, dict[str, str]]:
    """What each process is given of the GPUs, by its name, which no other process on any machine has."""
    jobs = _jobs(options) or 1
    leased: Sequence[str | None] = [None] * jobs if options.gpus is None else executors.parse_gpus(options.gpus)
    if jobs > len(leased):
        raise ConfigError(f"--jobs {jobs}: more than the {len(leased)} GPUs of --gpus.", "Name more GPUs.")
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    return {f"{host}-{os.getpid()}-{number}": executors.lease(gpu) for number, gpu in enumerate(leased[:jobs])}


def _conclude(config: Config, paths: Paths, options: Options, sweep: Sweep, console: Console) -> None:
    """Write and show the results, once all trials are over."""
    if not sweep.is_over():
        left = [str(trial.number) for trial in sweep.trials() if trial.state == TrialState.RUNNING]
        console.print(f"{sweep.plan.name}: other processes are at work on trial {', '.join(left)}; they end the sweep.")
        return
    if not results.completed(sweep.study):
        raise PipelineError(
            f"sweep {sweep.plan.name}: none of its {len(sweep.trials())} trials could be trained to the end.",
            f"Narrow the ranges of {options.space}. Trial 0: {results.row(sweep.trials()[0]).get('reason', 'pruned')}",
        )
    with waiting_lock(sweep.plan.folder / "results.lock"):
        importance, folder = results.importances(sweep.study, config.seed), paths.sweep(sweep.plan.name)
        write_text(folder / "trials.csv", results.to_csv(sweep.trials()))
        with atomic_file(folder / "sweep.png") as partial:
            results.figure(sweep.study, importance).savefig(partial, format="png")
        _record(config, paths, options, sweep, folder)
        sweep.tidy()
    if options.as_json:
        rows = {"best": results.row(sweep.study.best_trial), "importance": importance}
        tree = {"sweep": sweep.plan.name, **rows, "trials": [results.row(trial) for trial in sweep.trials()]}
        print(json.dumps(tree, indent=2))  # noqa: T201 - output for programs, on stdout
    else:
        print_results(sweep, importance, folder, console)
    if options.best is not None:
        chosen = settings_of(sweep.plan.space, sweep.study.best_params)
        experiments.create(paths, options.best, options.experiment, chosen)


def _record(config: Config, paths: Paths, options: Options, sweep: Sweep, folder: Path) -> None:
    """Bring the sweep's own run up to date."""
    place = SweepPlace(sweep.plan.name, digest_json(sweep.plan.identity))
    first = options.folds[0]
    run = tracking.start_training_run(config, paths, options.experiment, first, place.fingerprint, place)
    space = sweep.plan.space
    run.params({"sweep": {"sampler": space.sampler, "pruner": space.pruner, "parameters": list(space.parameters)}})
    best = -1.0
    for trial in sweep.trials():
        if trial.state == TrialState.COMPLETE:
            best = max(best, trial.values[0])
            run.metrics({"sweep/val_correlation": trial.values[0], "val/correlation": best}, trial.number)
    for path in sorted(folder.iterdir()):
        run.artifact(path)
    run.close("FINISHED")
