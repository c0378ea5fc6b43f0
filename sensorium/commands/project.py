"""The other end of `mlflow run`: stages through DVC, and the run that MLflow made handed to the right one."""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sensorium.config import Config
from sensorium.errors import ERROR_FILE_VARIABLE, ConfigError, PipelineError
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.files import read_json, waiting_lock
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths
from sensorium.scheduler.processes import die_with_parent
from sensorium.tracking.event_log import event_logs
from sensorium.tracking.project_run import RUN_VARIABLE, RUN_VARIABLES, log_results
from sensorium.tracking.recorder import ADOPT_VARIABLE, Past, record_past
from sensorium.tracking.run_links import RunLink
from sensorium.tracking.runs import FINGERPRINT, ROLE
from sensorium.tracking.store import TrackingStore, mlflow_errors
from sensorium.tracking.timeouts import UPLOAD_TIMEOUT, upload_timeout

ALL = "all"
EVALUATE = "evaluate"
"""Stage whose metrics are those of the project."""


_TRAINING = re.compile(r"train@(?P<experiment>.+)-(?P<fold>\d+)")
_FOLDS = re.compile(rf"predict@(?P<experiment>.+)-{FOLDS_SPLIT}")


def run_install(paths: Paths) -> None:
    """Let a bare `mlflow run .` use this environment, without pyenv; `make install` does it.

    Nothing else needs that environment: a home folder that cannot be written is reported, and ends no installation.
    """
    from sensorium.tracking.environment import install as install_environment

    store = TrackingStore.of(paths)
    if store.embedded:
        store.client()
    console = Console(soft_wrap=True)
    try:
        console.print(f"mlflow run . uses {install_environment(paths)}.")
    except OSError as fault:
        console.print(
            f"mlflow run . has no environment yet: {fault.filename}: {fault.strerror}.\n"
            "Set MLFLOW_ENV_ROOT to a folder that can be written, and type `sensorium project install`."
        )


def run(
    config: Config,
    paths: Paths,
    stages: Annotated[list[str], typer.Argument(help="Stages or groups of stages of dvc.yaml, or `all`.")],
) -> None:
    """Bring stages up to date, with everything that they need; a training uses the run that `mlflow run` started.

    Examples: `sensorium project run evaluate`, `sensorium project run train@true_batch_001-0`.

    Raises:
        ConfigError: dvc.yaml has no such stage.
        PipelineError: a stage failed; its own message is printed above.
    """
    names = [] if stages == [ALL] else [_stage_name(name) for name in stages]
    upstream = _find_upstream(paths.root, names)
    run_id = os.environ.get(RUN_VARIABLE)
    if run_id is not None and len(names) == 1 and (training := _TRAINING.fullmatch(names[0])):
        _repro_upstream(paths, upstream)
        _train(config, paths, names[0], training["experiment"], int(training["fold"]), run_id)
        return
    _repro(paths.root, names, _environment({}))
    if not names or EVALUATE in names:
        scores = read_json(paths.evaluation / "overall.json", PipelineError, f"Type `dvc repro {EVALUATE}`.")
        log_results(paths, {f"{SINGLE_TRIAL}/{source}": value for source, value in scores.items()})


def _stage_name(name: str) -> str:
    """The name in dvc.yaml, where `folds` is not a test split and a group has no item `all`."""
    return _FOLDS.sub(r"out_of_fold@\g<experiment>", name.removesuffix(f"@{ALL}"))


def _find_upstream(root: Path, names: Sequence[str]) -> list[str]:
    """Names of the stages that some stages, which must exist, need."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    upstream: set[str] = set()
    with Repo(str(root), _wait_for_lock=True) as repo:
        for name in names:
            try:
                found = repo.stage.collect(name)
            except DvcException as fault:
                known = {stage.addressing for stage in repo.index.stages}
                group = sorted(stage for stage in known if stage.partition("@")[0] == name.partition("@")[0])
                choice = group or sorted({stage.partition("@")[0] for stage in known})
                remedy = f"Choose one of: {', '.join(choice)}."
                raise ConfigError(f"stage {name!r}: not in dvc.yaml.", remedy) from fault
            upstream |= {need.addressing for stage in found for need in repo.index.graph.successors(stage)}
    return sorted(upstream)


def _repro_upstream(paths: Paths, stages: Sequence[str]) -> None:
    """Bring what a training needs up to date, one process at a time: parallel calls share it."""
    with waiting_lock(paths.state / "project.lock"):
        if stages:
            _repro(paths.root, list(stages), _environment({}))


def _train(config: Config, paths: Paths, stage: str, experiment: str, fold: int, run_id: str) -> None:
    """Train a fold in the run that `mlflow run` started.

    Where DVC finds the fold up to date, or takes it from its cache, nothing is trained; the run then
    receives what the training of that fold had recorded.
    """
    _repro(paths.root, ["--single-item", stage], _environment({f"{experiment}/fold_{fold}": run_id}))
    if not _trained_here(paths, experiment, fold, run_id):
        record_published(config, paths, experiment, fold, _linked_run(paths, experiment, fold), run_id)
        Console().print(f"{experiment} fold {fold} is up to date; its training is recorded in the run {run_id}.")


def _environment(adopt: Mapping[str, str]) -> dict[str, str]:
    """Variables for DVC: without the run of `mlflow run`, which only the stage that was asked for gets."""
    kept = {name: value for name, value in os.environ.items() if name not in RUN_VARIABLES}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    adopting = {
        ADOPT_VARIABLE: json.dumps(adopt),
        UPLOAD_TIMEOUT: f"{upload_timeout():g}",
    }  # whoever calls reads the run
    return {**kept, "PATH": programs, **(adopting if adopt else {})}


def _repro(root: Path, arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        reason = Path(folder) / "error"
        done = subprocess.run(  # noqa: S603 - arguments are names of stages that exist
            command,
            cwd=root,
            env={**environment, ERROR_FILE_VARIABLE: str(reason)},
            check=False,
            preexec_fn=die_with_parent,
        )
        problem = f"\n{reason.read_text(encoding='utf-8')}" if reason.exists() else ""
    if done.returncode != 0:
        raise PipelineError(
            f"dvc repro {' '.join(arguments)}: failed with exit code {done.returncode}.{problem}",
            "What was finished before it is kept."
            if problem
            else "The reason is printed above; what was finished is kept.",
        )


def _trained_here(paths: Paths, experiment: str, fold: int, run_id: str) -> bool:
    """Whether the training went into the run, or waits on disk to be delivered to it."""
    waiting = any(
        (header := log.header).get("adopt") == run_id and header["experiment"] == experiment
        for log in event_logs(TrackingStore.of(paths).state)
    )
    return waiting or _linked_run(paths, experiment, fold) == run_id or _holds(paths, experiment, fold, run_id)


def _holds(paths: Paths, experiment: str, fold: int, run_id: str) -> bool:
    """Whether the run has the training already, uploaded after its link was written."""
    from sensorium.lineage import fingerprint
    from sensorium.model.checkpoint import read_info

    with mlflow_errors(paths):
        tags: dict[str, str] = TrackingStore.of(paths).client().get_run(run_id).data.tags
    known = fingerprint(read_info(paths.fold(experiment, fold)).provenance)
    return tags.get(ROLE) == "fold" and tags.get(FINGERPRINT) == known


def _linked_run(paths: Paths, experiment: str, fold: int) -> str | None:
    """Run that the fold's link names; None where the server has not told its id yet."""
    return RunLink.read(paths.run_link(experiment, fold)).run_id


def record_published(
    config: Config, paths: Paths, experiment: str, fold: int, linked: str | None, run_id: str | None = None
) -> None:
    """Log the published training of a fold, whose link names the run `linked`, into a run, a new one by default."""
    from sensorium.lineage import fingerprint
    from sensorium.model.checkpoint import CONFIG, HISTORY, read_info

    folder, epochs = paths.fold(experiment, fold), published_epochs(config, paths, experiment, fold)
    past = Past(run_id, fingerprint(read_info(folder).provenance), linked, epochs)
    artifacts = [path for path in (folder / CONFIG, folder / HISTORY) if path.exists()]
    record_past(config, paths, experiment, fold, past, artifacts)


def published_epochs(config: Config, paths: Paths, experiment: str, fold: int) -> list[tuple[dict[str, float], int]]:
    """The epochs of a fold's history.csv, each as the metrics that the training recorded, and its step.

    Empty where the weights came without a history of ours.
    """
    from sensorium.model.checkpoint import HISTORY

    recipe = config.experiment(experiment).training
    steps = recipe.samples_per_epoch // recipe.batch_size
    history = paths.fold(experiment, fold) / HISTORY
    rows = list(csv.DictReader(history.read_text(encoding="utf-8").splitlines())) if history.exists() else []
    if not rows or not {"train_loss", "val_correlation"} <= rows[0].keys():
        return []
    return [
        (
            {"train/epoch_loss": float(row["train_loss"])}
            | {name.replace("val_", "val/", 1): float(text) for name, text in row.items() if name.startswith("val_")},
            (int(row["epoch"]) + 1) * steps,
        )
        for row in rows
    ]
