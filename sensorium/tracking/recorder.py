"""The training's side of tracking: it writes to a journal and waits for nobody."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.callbacks.recorder import Status
from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.files import digest_json
from sensorium.mice import short_names
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.tracking import provenance
from sensorium.tracking.courier import ensure_running, linger
from sensorium.tracking.journal import FINISHED, Journal, journal_for, journal_name, journals
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.links import RunLink
from sensorium.tracking.runs import (
    ARCHITECTURE,
    EXPERIMENT,
    FINGERPRINT,
    FOLD,
    FOLDS,
    GROUP,
    REBUILT,
    RECORD,
    RECORDED,
    ROLE,
    TEACHER,
    is_alive,
)
from sensorium.tracking.store import Store, closing_seconds, patience, refusals_told
from sensorium.tracking.sweeps import SweepPlace
from sensorium.tracking.system import SystemLoad

_log = logging.getLogger(__name__)

ADOPT_VARIABLE = "SENSORIUM_RUN"
"""JSON object: MLflow run id by fold, such as {"true_batch_001/fold_1": "..."}; `mlflow run` made the run."""

PATCH = "uncommitted.patch"
"""Artifact: what the tracked files differed in from the commit."""
_PATCH_BYTES = 4 << 20
"""A longer patch is data rather than code, and is not recorded."""

_GRACE_SECONDS = 45.0
"""What the courier may take to start on a busy machine, where it is waited for."""
_CLAIM_SECONDS = 5.0
"""A courier that notes the end of a killed training holds its journal for a moment."""
_TICK_SECONDS, _SUCCESSION_SECONDS = 0.02, 1.0
_SUSPICIOUS_SECONDS = 60.0
"""A training of this length without a run has a store that does not answer."""


class TrainingRun:
    """Recorder of one fold's training: params, metrics and artifacts for MLflow."""

    def __init__(
        self, journal: Journal, store: Store, link: Path | None, header: dict[str, Any], load: SystemLoad | None
    ) -> None:
        self._journal, self._store, self._link, self._load = journal, store, link, load
        self._names: dict[str, str] = header["mice"]
        self._began = time.monotonic()
        self._held = contextlib.ExitStack()
        journal.folder.mkdir(parents=True, exist_ok=True)
        if not self._held.enter_context(journal.claimed("writer", _CLAIM_SECONDS)):
            self._held.close()
            raise TrackingError(
                f"{header['experiment']}, {header['name']}: another training of this fold is at work.",
                "Wait for it to end, or end it.",
            )
        journal.mend()
        self._contents = journal.contents()
        journal.address_to(store.label)
        journal.append("start", **header)
        self._contents.params |= set(header["params"])
        ensure_running(store)

    def params(self, values: Mapping[str, object]) -> None:
        """Record settings and facts of the run, once each; nested mappings become dotted keys."""
        flat = provenance.flatten(values)
        fresh = {key: value for key, value in flat.items() if key not in self._contents.params}
        if fresh:
            self._journal.append("params", values=fresh)
            self._contents.params |= set(fresh)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at a step, an epoch as a rule; a step that the run already has is left as it is."""
        load = {} if self._load is None else self._load.sample()
        if load:
            ensure_running(self._store, wait=False)  # one that died has a successor within seconds
        told = {self._shortened(key): value for key, value in {**values, **load}.items()}
        fresh = {key: float(value) for key, value in told.items() if (key, step) not in self._contents.steps}
        if fresh:
            self._journal.append("metrics", values=fresh, step=step)
            self._contents.steps |= {(key, step) for key in fresh}

    def _shortened(self, key: str) -> str:
        """The key with the mouse that it may end in called as in all tables, where that tells the mice apart."""
        prefix, slash, last = key.rpartition("/")
        return f"{prefix}{slash}{self._names.get(last, last)}"

    def artifact(self, path: Path) -> None:
        """Record a file or folder as it is now."""
        self._journal.append("artifact", name=self._journal.keep(path))

    def close(self, status: Status = "FINISHED") -> None:
        """End the run, wait a moment for the courier, and write the link to the run.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        self._journal.append("close", status=status)
        duration = time.monotonic() - self._began
        seconds = patience() if self._load is None else closing_seconds(duration)  # no stage waits for a record
        _await_delivery(self._journal, self._store, seconds)
        nowhere = self._journal.delivery.run_id is None and duration > _SUSPICIOUS_SECONDS
        if self._journal.waits and (nowhere or 0 < seconds == patience()):
            self._warn()
        if status == FINISHED and self._link is not None:
            self._link_content().write(self._link)
        if status == FINISHED and not self._journal.waits:
            self._journal.remove()
        self._held.close()

    def _warn(self) -> None:
        _log.warning(
            "MLflow at %s cannot be reached or is slow: %d events wait in %s; `sensorium sync` delivers them.",
            self._store.label,
            self._journal.pending,
            self._journal.folder,
        )

    def _link_content(self) -> RunLink:
        delivery = self._journal.delivery
        waiting = self._journal.folder.name if delivery.run_id is None else None
        return RunLink(self._store.portable, delivery.experiment_id, delivery.run_id, waiting)


def _await_delivery(journal: Journal, store: Store, seconds: float) -> None:
    """Wait until the store has all events, or the courier had its time.

    Args:
        journal: what is to be delivered.
        store: where to.
        seconds: the courier's time; when that is all it ever gets, its start does not count.
    """
    began = asked = time.monotonic()
    grace = _GRACE_SECONDS if seconds and seconds == patience() else 0.0
    while journal.waits and time.monotonic() < began + seconds + grace:
        now = time.monotonic()
        if grace and journal.is_attended:
            began, grace = now, 0.0
        elif now - asked > _SUCCESSION_SECONDS:
            ensure_running(store, wait=False)
            asked = now
        time.sleep(_TICK_SECONDS)


def start_training_run(
    config: Config, paths: Paths, experiment: str, fold: int, fingerprint: str, place: SweepPlace | None = None
) -> TrainingRun:
    """Begin, or after a stop go on with, the MLflow run of one fold's training.

    Returns at once: the run is made by the courier, when the server answers.

    Args:
        config: the settings in force.
        paths: where everything lies.
        experiment: name in params.yaml.
        fold: fold that is held out.
        fingerprint: digest of everything that the training depends on; the same after a resume.
        place: where it is one of a sweep's runs.

    Raises:
        TrackingError: another process trains this fold, or `MLFLOW_TRACKING_URI` is of no use.
    """
    store = Store.of(paths)
    patience(), linger()  # a variable that is of no use is refused now, not hours later
    fields = {"experiment": experiment, "fold": fold, "fingerprint": fingerprint}
    journal = journal_for(store.state, fields)
    _forget_others(store, journal, journal_name({**fields, "fingerprint": ""}))
    patch = provenance.uncommitted(paths.root)
    header = {**fields, "name": f"fold_{fold}", **_header(config, store, fields, patch)}
    link = paths.run_link(experiment, fold) if place is None else None
    header = header if place is None else place.placed(header)
    run = TrainingRun(journal, store, link, header, SystemLoad())
    _attach_settings(run, journal, paths.root, patch)
    return run


def _attach_settings(run: TrainingRun, journal: Journal, root: Path, patch: bytes | None) -> None:
    """Record what it takes to set the training up again, besides the commit and the data."""
    if (root / PARAMS_FILE).exists():
        run.artifact(root / PARAMS_FILE)
    if patch and len(patch) <= _PATCH_BYTES:
        path = journal.folder / PATCH
        path.write_bytes(patch)
        run.artifact(path)


@dataclass(frozen=True)
class Past:
    """A training that is over, to be recorded from what it left on disk."""

    run_id: str | None
    """The run to record it in, made by `mlflow run`; None for a run of its own, in a store that lost it."""
    fingerprint: str
    original: str | None
    """The run that held the training, where it is known."""
    epochs: Sequence[tuple[Mapping[str, float], int]]
    """Metrics and step of every epoch."""


def record_past(
    config: Config, paths: Paths, experiment: str, fold: int, past: Past, artifacts: Sequence[Path] = ()
) -> None:
    """Record a training that is over: where there was nothing left to train, or the store was lost.

    The run gets params, metrics and artifacts. One that asked for it has the role `record`: the parent's figures
    leave it out. Code, machine and threads are those that the original tells; where there is none, nothing is told
    of them, as what is known here is another process.
    """
    store = Store.of(paths)
    fields = {"experiment": experiment, "fold": fold, "fingerprint": past.fingerprint}
    journal = journal_for(store.state, {**fields, "fingerprint": past.run_id or f"rebuilt{past.fingerprint}"})
    told = _header(config, store, fields, provenance.uncommitted(store.root))
    header = {**fields, "name": f"fold_{fold}", **told, "adopt": past.run_id}
    header["tags"] = {key: text for key, text in header["tags"].items() if key not in provenance.OF_NOW}
    header["tags"] |= _provenance_of(store, past.original)
    stands_for = REBUILT if past.run_id is None else RECORDED
    header["tags"] |= {} if past.original is None else {stands_for: past.original}
    if past.run_id is not None:
        header["name"] = f"{experiment}/fold_{fold} recorded"  # a row of the leaderboard, below no parent
        header["tags"] |= {ROLE: RECORD}
    run = TrainingRun(journal, store, None, header, None)
    for values, step in past.epochs:
        run.metrics(values, step)
    for path in artifacts:
        run.artifact(path)
    run.close(FINISHED)


def _provenance_of(store: Store, run_id: str | None) -> dict[str, str]:
    """What a run tells of the process and the tree that it came from; nothing where the store does not have it."""
    if run_id is None:
        return {}
    with refusals_told(Paths(store.root)):
        client = store.client()
        tags = client.get_run(run_id).data.tags if is_alive(client, run_id) else {}
    return {key: text for key, text in tags.items() if key in provenance.OF_NOW or key.startswith(provenance.DATA)}


def _header(config: Config, store: Store, fields: Mapping[str, Any], patch: bytes | None) -> dict[str, Any]:
    """What a run is told at its start: group, tags, params, datasets, and the run to adopt."""
    experiment, name = fields["experiment"], f"{fields['experiment']}/fold_{fields['fold']}"
    params = _params(config, experiment)
    group = digest_json([params, sorted(config.dataset.mice), os.environ.get("DVC_EXP_NAME", "")])
    tags = provenance.run_tags(store.root, config, f"train {name}", patch)
    settings = config.experiment(experiment)
    tags |= {
        ARCHITECTURE: settings.model.architecture,
        **({TEACHER: settings.distillation.teacher} if settings.distillation else {}),
        FINGERPRINT: fields["fingerprint"],
        GROUP: group,
        ROLE: "fold",
        EXPERIMENT: experiment,
        FOLD: str(fields["fold"]),
        FOLDS: str(len(config.folds.train)),
    }
    datasets = provenance.training_inputs(config, store.root, experiment, fields["fold"])
    return {
        "leaderboard": leaderboard_name(config),
        "mice": short_names(config.dataset.mice),
        "group": group,
        "tags": tags | {f"{provenance.DATA}{path}": digest for path, digest in datasets.items()},
        "params": params,
        "datasets": datasets,
        "adopt": json.loads(os.environ.get(ADOPT_VARIABLE) or "{}").get(name),
    }


def _params(config: Config, experiment: str) -> dict[str, str]:
    """Settings of one experiment, keys equal over experiments so that MLflow compares them."""
    tree = config.experiment(experiment).model_dump(mode="json", exclude_none=True)
    return provenance.flatten(
        {
            **tree,
            "seed": config.seed,
            "window": config.window.model_dump(),
            "folds": {"count": config.folds.count, "grouping": config.folds.grouping},
            "mice": len(config.dataset.mice),
        }
    )


def _forget_others(store: Store, journal: Journal, prefix: str) -> None:
    """Delete delivered journals of earlier settings of the same fold; they can never be resumed here."""
    for other in journals(store.state):
        if other.folder.name.startswith(prefix) and other.folder != journal.folder:
            with other.claimed("courier") as free, other.claimed("writer") as idle:
                if free and idle and not other.pending and other.contents().status is not None:
                    other.remove()
