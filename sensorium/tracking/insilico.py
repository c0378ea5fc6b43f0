"""The run of an experiment in silico: below the run of the model that it was made on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sensorium.paths import Paths
from sensorium.tracking.event_log import FINISHED, now
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.project_run import RUN_VARIABLE
from sensorium.tracking.provenance import Provenance
from sensorium.tracking.run_links import find_run, run_links
from sensorium.tracking.runs import EXPERIMENT, PARENT, ROLE, is_alive, log_metrics, log_params, search
from sensorium.tracking.runs import everywhere as all_experiments
from sensorium.tracking.store import TrackingStore, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROLE_INSILICO = "insilico"
MODEL, MODEL_DIGEST = "sensorium.model", "sensorium.model_digest"
"""Tags: the model that an experiment was made on, and the digest of its weights."""


@dataclass(frozen=True)
class ExperimentRecord:
    """What is recorded of an experiment in silico."""

    name: str
    """Such as `tuning 29515-10-12`."""
    experiments: Sequence[str]
    """Trainings that the model consists of."""
    runs: Sequence[str]
    """Runs of its folds, as far as its version in the registry names them."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def log_experiment(preset: str, paths: Paths, record: ExperimentRecord, folder: Path) -> str:
    """Record an experiment and its results; returns the id of the run, that of `mlflow run` where there is one.

    Args:
        preset: whose leaderboard lists it.
        paths: the project.
        record: what is known of it.
        folder: the results, logged as artifacts.

    Raises:
        TrackingError: the store refuses or cannot be reached.
    """
    with mlflow_errors(paths):
        store = TrackingStore.of(paths)
        client = store.client()
        parent = model_run(client, paths, record)
        tags = {**Provenance.current(paths.root, record.name).to_tags(), **record.tags, ROLE: ROLE_INSILICO}
        tags |= {EXPERIMENT: ",".join(record.experiments)} | ({} if parent is None else {PARENT: parent})
        run_id = os.environ.get(RUN_VARIABLE)
        if run_id is None:
            experiment = store.experiment_id(client, leaderboard_name(preset))
            run_id = str(client.create_run(experiment, run_name=record.name, tags=tags).info.run_id)
        else:
            for key, value in tags.items():
                client.set_tag(run_id, key, value)
        log_params(client, run_id, record.params)
        log_metrics(client, run_id, [(key, value, now(), 0) for key, value in record.metrics.items()])
        client.log_artifacts(run_id, str(folder))
        client.set_terminated(run_id, FINISHED)
    return run_id


def model_run(client: "MlflowClient", paths: Paths, record: ExperimentRecord) -> str | None:
    """The run of a model: of the training of its folds, or of the evaluation of a mean; None where it is elsewhere."""
    if len(record.experiments) > 1:
        tags = {ROLE: "evaluation", EXPERIMENT: ",".join(record.experiments)}
        found = [run for run in search(client, all_experiments(client), tags) if is_alive(client, run.info.run_id)]
        return str(found[-1].info.run_id) if found else None
    if not record.experiments:
        return None
    (experiment,) = record.experiments
    linked = [find_run(client, paths, experiment, fold) for fold in run_links(paths, experiment)]
    for run_id in [*record.runs, *filter(None, linked)]:
        if is_alive(client, run_id):
            return str(client.get_run(run_id).data.tags.get(PARENT, run_id))
    return None
