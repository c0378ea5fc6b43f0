"""What MLflow knows of a finished training: enough to set it up again, and what came out of it."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sensorium.config import Config
from sensorium.errors import ConfigError, TrackingError
from sensorium.paths import Paths
from sensorium.recovery import remedy
from sensorium.tracking.event_log import FINISHED
from sensorium.tracking.provenance import Provenance, commit_of, training_inputs, uncommitted
from sensorium.tracking.recorder import CONFIG, HISTORY, PATCH
from sensorium.tracking.run_links import find_run
from sensorium.tracking.runs import EXPERIMENT, FOLD, PARENT, REBUILT, RECORD, RECORDED, ROLE, is_alive, search
from sensorium.tracking.store import URI_VARIABLE, TrackingStore, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

REPRODUCED = "sensorium.reproduced"
"""Tag: verdict of the last reproduction."""
_RUN = re.compile(r"[0-9a-f]{32}")
_FOLD = re.compile(r"(?P<experiment>.+)/fold_(?P<fold>\d+)")
_TRAIN = "Train the fold again by `dvc repro`, in a clean clone; its run can be reproduced."


@dataclass(frozen=True)
class TrainingRecord:
    """A fold's training, as its run records it."""

    run_id: str | None
    """None for a fold that was pulled: its run is in another store."""
    experiment: str
    fold: int
    commit: str
    patch: bytes
    """What the tracked files differed in from the commit; empty for a clean tree."""
    inputs: dict[str, str]
    """DVC's digest of everything that was read, by path."""
    threads: int | None
    """Threads of the training on the CPU; None for runs that do not record them."""
    hardware: str
    artifacts: dict[str, bytes] = field(repr=False)
    """CONFIG and HISTORY, where the run has them."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        return f"{self.experiment}/fold_{self.fold}"

    @property
    def key(self) -> str:
        """Name of the folder to work in."""
        return self.run_id or f"{self.experiment}-fold_{self.fold}"


def read_training_record(config: Config, paths: Paths, name: str) -> TrainingRecord:
    """The record of a run by its id, or of a fold on disk, EXPERIMENT/fold_<k>, whose run may be in another store.

    Raises:
        ConfigError: the name is neither.
        TrackingError: the run is missing, is not a finished training, or does not record enough.
    """
    store = TrackingStore.of(paths)
    with mlflow_errors(paths):
        client = store.client()
        run_id = name if _RUN.fullmatch(name) else find_run(client, paths, *_parse(name))
        if run_id is None:
            return _pulled(config, paths, *_parse(name))
        run = _training(client, store, run_id)
        run_id, tags = str(run.info.run_id), run.data.tags
        if REBUILT in tags and Provenance.from_tags(tags).commit is None and not _RUN.fullmatch(name):
            return _pulled(config, paths, *_parse(name))
        held = {a.path for a in client.list_artifacts(run_id)}
        with tempfile.TemporaryDirectory() as folder:
            files = {key: client.download_artifacts(run_id, key, folder) for key in {CONFIG, HISTORY, PATCH} & held}
            artifacts = {key: Path(file).read_bytes() for key, file in files.items()}
    return _complete(run_id, tags, artifacts)


def _complete(run_id: str, tags: Mapping[str, str], artifacts: dict[str, bytes]) -> TrainingRecord:
    """The record; raises a TrackingError where tags and artifacts of a run do not suffice to train again."""
    made = Provenance.from_tags(tags)
    inputs = {path: digest for path, digest in made.inputs.items() if path.startswith("data/")}
    patch = artifacts.pop(PATCH, b"")
    if not inputs:
        raise TrackingError(f"run {run_id}: does not record which data it read; there was no dvc.lock.", _TRAIN)
    if made.commit is None:
        raise TrackingError(f"run {run_id}: its code is unknown, it ran outside a git repository.", _TRAIN)
    if made.dirty == "true" and not patch:
        raise TrackingError(
            f"run {run_id}: ran with uncommitted changes that were not recorded, so its code is unknown.", _TRAIN
        )
    threads = None if made.threads is None else int(made.threads)
    fold, hardware = int(tags[FOLD]), made.hardware or ""
    return TrainingRecord(run_id, tags[EXPERIMENT], fold, made.commit, patch, inputs, threads, hardware, artifacts)


def note_verdict(paths: Paths, record: TrainingRecord, verdict: str) -> None:
    """Write the verdict of a reproduction onto the run, where the run table shows it."""
    if record.run_id is not None:
        with mlflow_errors(paths):
            TrackingStore.of(paths).client().set_tag(record.run_id, REPRODUCED, verdict)


def _parse(name: str) -> tuple[str, int]:
    """Experiment and fold; raises a ConfigError where the name is of another form."""
    match = _FOLD.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"{name!r}: neither the id of an MLflow run nor a fold.",
            "Name a run's id of 32 digits, or a fold such as true_batch_001/fold_0.",
        )
    return match["experiment"], int(match["fold"])


def _pulled(config: Config, paths: Paths, experiment: str, fold: int) -> TrainingRecord:
    """The record of a fold whose run is not at hand: the tree that it came with."""
    folder, commit, patch = paths.fold(experiment, fold), commit_of(paths.root), uncommitted(paths.root)
    files = [folder / name for name in (CONFIG, HISTORY)]
    for file in files:
        if not file.is_file():
            raise TrackingError(
                f"{file}: the file does not exist.", remedy(folder, "Type `dvc pull`, or name a run's id.")
            )
    inputs = training_inputs(config, paths.root, experiment, fold)
    if commit is None or patch is None or not inputs:
        raise TrackingError(
            f"{folder}: neither its run nor a commit with dvc.lock shows how it was trained.", "Name a run's id."
        )
    artifacts = {file.name: file.read_bytes() for file in files}
    return TrainingRecord(None, experiment, fold, commit, patch, inputs, None, "", artifacts)


def _training(client: "MlflowClient", store: TrackingStore, run_id: str) -> "Run":
    """The run that holds a fold's training; raises a TrackingError where there is none."""
    if not is_alive(client, run_id):
        raise TrackingError(
            f"run {run_id}: not at {store.label}.",
            "Runs of folds that were pulled are in the store of whoever trained them: set "
            f"{URI_VARIABLE} to it, or train the fold here.",
        )
    run = client.get_run(run_id)
    role = run.data.tags.get(ROLE)
    if role == RECORD and RECORDED in run.data.tags:
        return _training(client, store, run.data.tags[RECORDED])
    if role != "fold":
        folds = search(client, [run.info.experiment_id], {PARENT: run_id, ROLE: "fold"})
        known = ", ".join(f"{fold.info.run_id} (fold {fold.data.tags[FOLD]})" for fold in folds)
        raise TrackingError(
            f"run {run_id}: not the training of a fold.", f"Name one of: {known or 'the runs fold_<k>'}."
        )
    if run.info.status != FINISHED:
        raise TrackingError(f"run {run_id}: not finished, its status is {run.info.status}.", "Name a finished run.")
    return run
