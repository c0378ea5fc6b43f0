"""The training's side of tracking: it writes to an event log and waits for nobody."""

import contextlib
import csv
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sensorium.callbacks.recorder import Recorder, Status
from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.files import digest_json
from sensorium.mice import short_names
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.secrets import find
from sensorium.tracking import runs
from sensorium.tracking.event_log import FINISHED, UPLOADER, WRITER, EventLog, event_logs, log_for
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.provenance import Provenance, flatten, source_tags, training_inputs
from sensorium.tracking.run_links import RunLink, trained_fingerprint
from sensorium.tracking.store import TrackingStore, mlflow_errors
from sensorium.tracking.sweeps import SweepPlace
from sensorium.tracking.system import SystemLoad
from sensorium.tracking.timeouts import ALLOWANCE_SECONDS, check_timeouts, closing_seconds, upload_timeout
from sensorium.tracking.uploader_process import ensure_running

_log = logging.getLogger(__name__)

ADOPT_VARIABLE = "SENSORIUM_RUN"
"""JSON object: MLflow run id by fold, such as {"true_batch_001/fold_1": "..."}; `mlflow run` made the run."""

CONFIG, HISTORY = "config.json", "history.csv"
"""Files of a trained fold, artifacts of its run."""
PATCH = "uncommitted.patch"
"""Artifact: what the tracked files differed in from the commit."""
_PATCH_BYTES = 4 << 20
"""A longer patch is data rather than code, and is not recorded."""

_LOCK_SECONDS = 5.0
"""An uploader that records the end of a killed training holds its log for a moment."""
_TICK_SECONDS, _SUCCESSION_SECONDS = 0.02, 1.0
_SUSPICIOUS_SECONDS = 60.0
"""A training of this length without a run has a store that does not answer."""


class TrainingRun(Recorder):
    """Recorder of one fold's training: params, metrics and artifacts for MLflow."""

    def __init__(
        self, log: EventLog, store: TrackingStore, link: Path | None, header: dict[str, Any], load: SystemLoad | None
    ) -> None:
        self._events, self._store, self._link, self._load = log, store, link, load
        self._names: dict[str, str] = header["mice"]
        self._began = time.monotonic()
        self._lock = contextlib.ExitStack()
        log.folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.enter_context(log.locked(WRITER, _LOCK_SECONDS)):
            self._lock.close()
            raise TrackingError(
                f"{header['experiment']}, {header['name']}: another training of this fold is at work.",
                "Wait for it to end, or end it.",
            )
        log.repair()
        log.address = store.label
        log.append("start", **header)
        ensure_running(store)

    def params(self, values: Mapping[str, object]) -> None:
        """Record settings and facts of the run, once each; nested mappings become dotted keys."""
        self._events.append("params", values=flatten(values))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at a step, an epoch as a rule; a step that the run already has is left as it is."""
        load = {} if self._load is None else self._load.sample()
        if load:
            ensure_running(self._store)  # one that died has a successor within seconds
        named = {self._short_key(key): float(value) for key, value in {**values, **load}.items()}
        self._events.append("metrics", values=named, step=step)

    def _short_key(self, key: str) -> str:
        """The key with the mouse that it may end in called as in all tables, where that is unambiguous."""
        prefix, slash, last = key.rpartition("/")
        return f"{prefix}{slash}{self._names.get(last, last)}"

    def artifact(self, path: Path) -> None:
        """Record a file or folder as it is now."""
        self._events.add_file(path)
        self._events.append("artifact", name=path.name)

    def close(self, status: Status = "FINISHED") -> None:
        """End the run, wait a moment for the uploader, and write the link to the run."""
        self._events.append("close", status=status)
        duration = time.monotonic() - self._began
        seconds = upload_timeout() if self._load is None else closing_seconds(duration)  # no stage waits for a record
        _await_upload(self._events, self._store, seconds)
        uploaded, state = self._events.is_uploaded, self._events.upload_state
        no_run = state.run_id is None and duration > _SUSPICIOUS_SECONDS
        if not uploaded and (no_run or 0 < seconds == upload_timeout()):
            _log.warning(
                "MLflow at %s cannot be reached or is slow: events wait in %s; `sensorium sync` uploads them.",
                self._store.label,
                self._events.folder,
            )
        if status == FINISHED:
            if self._link is not None:
                waiting = self._events.name if state.run_id is None else None
                known = {"experiment_id": state.experiment_id, "run_id": state.run_id, "journal": waiting}
                RunLink(tracking_uri=self._store.portable, **known).save(self._link)
            if uploaded:
                self._events.remove()
        self._lock.close()


def _await_upload(log: EventLog, store: TrackingStore, seconds: float) -> None:
    """Wait until the store has all events, or the uploader had its time.

    When `seconds` is all the time that it ever gets, its start does not count.
    """
    began = asked = time.monotonic()
    grace = ALLOWANCE_SECONDS if seconds and seconds == upload_timeout() else 0.0
    while not log.is_uploaded and time.monotonic() < began + seconds + grace:
        now = time.monotonic()
        if grace and log.is_held(UPLOADER):
            began, grace = now, 0.0
        elif now - asked > _SUCCESSION_SECONDS:
            ensure_running(store)
            asked = now
        time.sleep(_TICK_SECONDS)


def start_training_run(
    config: Config, paths: Paths, experiment: str, fold: int, fingerprint: str, place: SweepPlace | None = None
) -> TrainingRun:
    """Begin, or after a stop go on with, the MLflow run of one fold's training.

    Returns at once: the run is made by the uploader, when the server answers. The fingerprint is the digest of
    everything that the training depends on, the same after a resume; the place is that of a run in its sweep.

    Raises:
        TrackingError: another process trains this fold, or `MLFLOW_TRACKING_URI` is of no use.
    """
    store = TrackingStore.of(paths)
    check_timeouts()
    log = log_for(store.state, experiment, fold, fingerprint)
    _remove_others(store, log)
    stage = f"train {experiment}/fold_{fold}"
    made = Provenance.current(store.root, stage, training_inputs(config, store.root, experiment, fold))
    header = _header(config, experiment, fold, fingerprint, made)
    link = paths.run_link(experiment, fold) if place is None else None
    header = header if place is None else place.placed(header)
    run = TrainingRun(log, store, link, header, SystemLoad())
    if (paths.root / PARAMS_FILE).exists():
        run.artifact(paths.root / PARAMS_FILE)
    if made.patch and len(made.patch) <= _PATCH_BYTES and _is_public(made.patch, paths.root):
        patch = log.folder / PATCH
        patch.write_bytes(made.patch)
        run.artifact(patch)
    return run


def _is_public(patch: bytes, root: Path) -> bool:
    """Whether a patch holds no credential; one that does is named in a warning."""
    place = find(patch.decode(errors="replace"), root)
    if place is not None:
        _log.warning(
            "uncommitted changes: line %d of `git diff HEAD` holds what looks like a credential, so the changes are "
            "not recorded with the run, and `sensorium reproduce` will not know its code. Keep credentials in "
            ".dvc/config.local or in the environment.",
            place,
        )
    return place is None


def record_past(config: Config, paths: Paths, experiment: str, fold: int, run_id: str | None = None) -> None:
    """Record a training that is over, from what it left: nothing was left to train, or the store was lost.

    The run gets params, metrics and artifacts. One that asked for it has the role `record`: the parent's figures
    leave it out. Code, machine and threads are those of the run that the fold's link names; where there is none,
    nothing is recorded of them, as what is known here is another process. Without a run that `mlflow run` has made,
    it gets one of its own, in a store that lost it.
    """
    store, folder = TrackingStore.of(paths), paths.fold(experiment, fold)
    fingerprint, original = trained_fingerprint(folder), RunLink.read(paths.run_link(experiment, fold)).run_id
    log = log_for(store.state, experiment, fold, run_id or f"rebuilt{fingerprint}")
    made = _provenance_of(store, original)
    inputs = {**training_inputs(config, store.root, experiment, fold), **made.inputs}
    header = _header(config, experiment, fold, fingerprint, replace(made, inputs=inputs)) | {"adopt": run_id}
    if original is not None:
        header["tags"][runs.REBUILT if run_id is None else runs.RECORDED] = original
    if run_id is not None:
        header["name"] = f"{experiment}/fold_{fold} recorded"  # a row of the leaderboard, below no parent
        header["tags"][runs.ROLE] = runs.RECORD
    run = TrainingRun(log, store, None, header, None)
    for values, step in published_epochs(config, paths, experiment, fold):
        run.metrics(values, step)
    for path in (folder / CONFIG, folder / HISTORY):
        if path.exists():
            run.artifact(path)
    run.close(FINISHED)


def published_epochs(config: Config, paths: Paths, experiment: str, fold: int) -> list[tuple[dict[str, float], int]]:
    """Metrics and step of every epoch in a fold's history.csv; empty where the weights came without one of ours."""
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


def _provenance_of(store: TrackingStore, run_id: str | None) -> Provenance:
    """What a run records of the process and the tree that it came from; nothing where the store does not have it."""
    if run_id is None:
        return Provenance()
    with mlflow_errors(Paths(store.root)):
        client = store.client()
        return Provenance.from_tags(client.get_run(run_id).data.tags if runs.is_alive(client, run_id) else {})


def _header(config: Config, experiment: str, fold: int, fingerprint: str, made: Provenance) -> dict[str, Any]:
    """What a run gets at its start: name, group, tags, params, datasets, and the run to adopt."""
    params, settings = _params(config, experiment), config.experiment(experiment)
    group = digest_json([params, sorted(config.dataset.mice), os.environ.get("DVC_EXP_NAME", "")])
    return {
        "experiment": experiment,
        "fold": fold,
        "fingerprint": fingerprint,
        "name": f"fold_{fold}",
        "leaderboard": leaderboard_name(config.preset),
        "mice": short_names(config.dataset.mice),
        "group": group,
        "tags": {
            **source_tags(config.seed),
            **made.to_tags(),
            runs.ARCHITECTURE: settings.model.architecture,
            **({runs.TEACHER: settings.distillation.teacher} if settings.distillation else {}),
            **({runs.START: settings.start.experiment} if settings.start else {}),
            runs.FINGERPRINT: fingerprint,
            runs.GROUP: group,
            runs.ROLE: "fold",
            runs.EXPERIMENT: experiment,
            runs.FOLD: str(fold),
            runs.FOLDS: str(len(config.folds.train)),
        },
        "params": params,
        "datasets": dict(made.inputs),
        "adopt": json.loads(os.environ.get(ADOPT_VARIABLE) or "{}").get(f"{experiment}/fold_{fold}"),
    }


def _params(config: Config, experiment: str) -> dict[str, str]:
    """Settings of one experiment, keys equal over experiments so that MLflow compares them."""
    tree = config.experiment(experiment).model_dump(mode="json", exclude_none=True)
    return flatten(
        {
            **tree,
            "seed": config.seed,
            "window": config.window.model_dump(),
            "folds": {"count": config.folds.count, "grouping": config.folds.grouping},
            "mice": len(config.dataset.mice),
        }
    )


def _remove_others(store: TrackingStore, log: EventLog) -> None:
    """Delete uploaded logs of earlier settings of the same fold; they can never be resumed here."""
    fold, *_ = log.name.rpartition("-")
    for other in event_logs(store.state):
        if other.name.startswith(f"{fold}-") and other.name != log.name:
            with other.locked(UPLOADER) as free, other.locked(WRITER) as idle:
                if free and idle and other.is_uploaded and other.status is not None:
                    other.remove()
