"""The other end of `mlflow run`: stages through DVC, and the run that MLflow made handed to the right one."""

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
from sensorium.evaluation.tables import SINGLE_TRIAL, read_overall
from sensorium.files import waiting_lock
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths
from sensorium.processes import die_with_parent
from sensorium.scheduler.coordinator import command_environment
from sensorium.tracking.event_log import event_logs
from sensorium.tracking.project_run import RUN_VARIABLE, install_environment, log_results
from sensorium.tracking.recorder import ADOPT_VARIABLE, record_past
from sensorium.tracking.run_links import trained_fingerprint
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
    store = TrackingStore.of(paths)
    if store.database is not None:
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
        with waiting_lock(paths.state / "project.lock"):  # parallel calls share what a training needs
            if upstream:
                _repro(paths.root, upstream)
        _train(config, paths, names[0], training["experiment"], int(training["fold"]), run_id)
        return
    _repro(paths.root, names)
    if not names or EVALUATE in names:
        scores = read_overall(paths.evaluation / "overall.json", PipelineError, f"Type `dvc repro {EVALUATE}`.")
        log_results(paths, {f"{SINGLE_TRIAL}/{source}": value for source, value in scores.items()})


def _stage_name(name: str) -> str:
    """The name in dvc.yaml, where `folds` is not a test split and a group has no item `all`."""
    return _FOLDS.sub(r"out_of_fold@\g<experiment>", name.removesuffix(f"@{ALL}"))


def _find_upstream(root: Path, names: Sequence[str]) -> list[str]:
    """Names of the stages that some stages need; raises a ConfigError where there is no such stage."""
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


def _train(config: Config, paths: Paths, stage: str, experiment: str, fold: int, run_id: str) -> None:
    """Train a fold in the run that `mlflow run` started.

    Where DVC finds the fold up to date, or takes it from its cache, nothing is trained; the run then
    receives what the training of that fold had recorded.
    """
    _repro(paths.root, ["--single-item", stage], {f"{experiment}/fold_{fold}": run_id})
    if not _trained_here(paths, experiment, fold, run_id):
        record_past(config, paths, experiment, fold, run_id)
        Console().print(f"{experiment} fold {fold} is up to date; its training is recorded in the run {run_id}.")


def _repro(root: Path, arguments: list[str], adopt: Mapping[str, str] | None = None) -> None:
    """Call DVC; only the stage that was asked for gets the run of `mlflow run`, which whoever calls then reads."""
    environment = command_environment("local")
    if adopt:
        environment |= {ADOPT_VARIABLE: json.dumps(adopt), UPLOAD_TIMEOUT: f"{upload_timeout():g}"}
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
        message = f"\n{reason.read_text(encoding='utf-8')}" if reason.exists() else ""
    if done.returncode != 0:
        raise PipelineError(
            f"dvc repro {' '.join(arguments)}: failed with exit code {done.returncode}.{message}",
            "What was finished before it is kept; the reason is shown above.",
        )


def _trained_here(paths: Paths, experiment: str, fold: int, run_id: str) -> bool:
    """Whether the run has the training, or will get it from an event log on disk; see `mlflow_errors`."""
    store = TrackingStore.of(paths)
    for header in (log.header for log in event_logs(store.state)):
        if header.get("adopt") == run_id and header["experiment"] == experiment:
            return True
    with mlflow_errors(paths):
        tags: dict[str, str] = store.client().get_run(run_id).data.tags
    return tags.get(ROLE) == "fold" and tags.get(FINGERPRINT) == trained_fingerprint(paths.fold(experiment, fold))
