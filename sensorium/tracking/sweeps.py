"""The runs of a sweep in MLflow: a parent for the sweep, a child for each trial, found again by tags."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sensorium.files import waiting_lock
from sensorium.tracking.provenance import STAGE
from sensorium.tracking.runs import FINGERPRINT, FOLD, FOLDS, PARENT, ROLE, search
from sensorium.tracking.store import TrackingStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEP, TRIAL = "sweep", "trial"
"""Roles: of the parent, and of its children."""
NAME = "sensorium.sweep"
"""Tag: name of the sweep."""
NUMBER = "sensorium.trial"
"""Tag: number of the trial."""
_IDENTITY = "sensorium.sweep.fingerprint"
"""Tag of a trial: the fingerprint of its sweep's run."""


@dataclass(frozen=True)
class SweepPlace:
    """What a run is to its sweep."""

    sweep: str
    """Name of the sweep."""
    fingerprint: str
    """Digest of the sweep."""
    trial: int | None = None
    """Number of the trial; None for the sweep itself."""
    title: str = ""
    """Name of the run."""

    def placed(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """The `start` event of a run that is the sweep's, or one of its trials'."""
        tags = {**header["tags"], NAME: self.sweep}
        if self.trial is None:
            tags = {key: text for key, text in tags.items() if key not in {FOLD, FOLDS}} | {ROLE: SWEEP}
        else:
            tags |= {ROLE: TRIAL, NUMBER: str(self.trial), _IDENTITY: self.fingerprint}
        return {**header, "name": self.title or self.sweep, "tags": tags, "adopt": None}


def concerns(header: Mapping[str, Any]) -> bool:
    """Whether a run belongs to a sweep."""
    return header["tags"][ROLE] in {SWEEP, TRIAL}


def attach(client: "MlflowClient", store: TrackingStore, header: Mapping[str, Any]) -> tuple[str, str]:
    """The run of a sweep or trial, made when missing; see `runs.attach`."""
    with waiting_lock(store.state / "runs.lock"):
        experiment, tags = store.experiment_id(client, header["leaderboard"]), dict(header["tags"])
        if tags[ROLE] == TRIAL:
            above = {FINGERPRINT: tags[_IDENTITY], NAME: tags[NAME], ROLE: SWEEP}
            of_trial = {FOLD, FOLDS, NUMBER, _IDENTITY, STAGE}
            tags[PARENT] = _run(client, experiment, tags[NAME], {**_without(tags, of_trial), **above})
        return experiment, _run(client, experiment, header["name"], tags)


def _without(tags: Mapping[str, str], keys: set[str]) -> dict[str, str]:
    return {key: text for key, text in tags.items() if key not in keys}


def _run(client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """The run of a fingerprint and role."""
    found = search(client, [experiment], {key: tags[key] for key in (FINGERPRINT, NAME, ROLE)})
    run = found[-1] if found else client.create_run(experiment, run_name=name, tags=dict(tags))
    return str(run.info.run_id)
