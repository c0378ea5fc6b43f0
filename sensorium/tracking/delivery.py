"""Delivery of journals to MLflow: every event once, whatever was delivered before.

Metrics are compared with the history that the server has before anything is sent again; a run is found
again by its fingerprint.
"""

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sensorium.errors import SensoriumError
from sensorium.tracking import leaderboard, runs, sweeps
from sensorium.tracking.journal import FINISHED, Delivery, Journal, journals
from sensorium.tracking.store import Store, patience, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

_GROUP = 200
"""Metric events sent in one go."""

_GRACE_SECONDS = 15.0
"""What a courier may take beyond its patience: to wait for one answer, on a busy machine."""

Events = list[tuple[dict[str, Any], int]]


class Courier:
    """Delivers one journal to one store."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self._journal = journal
        self._store = store
        self._client: MlflowClient | None = None
        self._known: dict[str, set[int]] = {}
        self._delivery = journal.delivery

    def deliver(self, deadline: float = math.inf) -> None:
        """Send every event that the store does not have.

        Args:
            deadline: time of `time.monotonic` after which nothing more is begun.

        Raises:
            Exception: whatever MLflow raises; the journal then notes what arrived before it.
        """
        try:
            for group in _groups(self._waiting()):
                self._send(group)
                self._delivery.position = group[-1][1]
                self._journal.note(self._delivery)
                if time.monotonic() > deadline:
                    return
        except BaseException:
            self._known = {}  # what was under way may have arrived
            raise

    def _waiting(self) -> Events:
        """Events to send: from the beginning when the run is to be another one than before."""
        events = list(self._journal.read(self._delivery.position))
        if self._client is None or any(event["kind"] == "start" for event, _ in events):
            self._client = self._client or self._store.client()
            before = self._delivery
            self._check_run(self._client)
            if self._delivery is not before:
                self._known, events = {}, list(self._journal.read())
        return events

    def _check_run(self, client: "MlflowClient") -> None:
        """Forget a run that is gone, in another store, or replaced by one that `mlflow run` made."""
        run_id, header = self._delivery.run_id, self._journal.contents().header
        if run_id is None:
            return
        here = self._delivery.uri == self._store.label and runs.is_alive(client, run_id)
        replaced = header.get("adopt") not in {None, run_id}
        if here and replaced:
            client.set_tag(run_id, "sensorium.continued_by", header["adopt"])
            client.set_terminated(run_id, "KILLED")
        if replaced or not here:
            self._delivery = Delivery()

    def _send(self, group: Events) -> None:
        assert self._client is not None
        event = group[0][0]
        if event["kind"] == "start":
            self._begin(self._client, event)
            return
        run_id = self._delivery.run_id
        assert run_id is not None, "a journal begins with a start event"
        match event["kind"]:
            case "metrics":
                self._send_metrics(self._client, run_id, [item for item, _ in group])
            case "params":
                runs.log_params(self._client, run_id, event["values"])
            case "artifact":
                self._upload(self._client, run_id, event["name"])
            case "close":
                self._client.set_terminated(run_id, event["status"], event["time"])
                if event["status"] == FINISHED:
                    runs.summarise(self._client, run_id)
                    leaderboard.describe(self._client, run_id)

    def _begin(self, client: "MlflowClient", event: dict[str, Any]) -> None:
        if self._delivery.run_id is None:
            header = self._journal.contents().header  # a later start may name another run to adopt
            attach = sweeps.attach if sweeps.concerns(header) else runs.attach
            experiment_id, run_id = attach(client, self._store, header)
            self._delivery = Delivery(self._store.label, experiment_id, run_id, self._delivery.position)
            self._journal.note(self._delivery)
        attached = self._delivery.run_id
        assert attached is not None, "attached above"
        client.update_run(attached, status="RUNNING")
        runs.log_params(client, attached, event["params"])
        self._log_datasets(client, attached, event["datasets"])

    @staticmethod
    def _log_datasets(client: "MlflowClient", run_id: str, digests: dict[str, str]) -> None:
        """Name DVC's outputs and digests as the run's inputs; nothing of them is read."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(name=path, digest=digest[:36], source_type="dvc", source=f'{{"path": "{path}"}}'),
                [InputTag("mlflow.data.context", "training")],
            )
            for path, digest in digests.items()
        ]
        if inputs:
            client.log_inputs(run_id, datasets=inputs)

    def _send_metrics(self, client: "MlflowClient", run_id: str, events: list[dict[str, Any]]) -> None:
        unknown = {key for event in events for key in event["values"]} - self._known.keys()
        if unknown:
            self._known |= runs.known_steps(client, run_id, unknown)
        batch = {
            (key, event["step"]): (key, value, event["time"], event["step"])
            for event in events
            for key, value in event["values"].items()
            if event["step"] not in self._known[key]
        }
        runs.log_metrics(client, run_id, batch.values())
        for key, step in batch:
            self._known[key].add(step)

    def _upload(self, client: "MlflowClient", run_id: str, name: str) -> None:
        source = self._journal.artifact(name)
        if source.is_dir():
            client.log_artifacts(run_id, str(source), name)
        elif source.exists():
            client.log_artifact(run_id, str(source))


def _groups(events: Events) -> Iterator[Events]:
    """Join neighbouring metric events, so that one call carries many."""
    group: Events = []
    for item in events:
        metrics = item[0]["kind"] == "metrics"
        if group and not (metrics and group[0][0]["kind"] == "metrics" and len(group) < _GROUP):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def deliver_leftovers(store: Store) -> dict[str, str | None]:
    """Deliver the journals of trainings that are over, and delete those that are then of no more use.

    A courier that is at work on one is waited for.

    Returns:
        What went wrong, by journal; None where everything arrived.
    """
    results: dict[str, str | None] = {}
    for journal in journals(store.state):
        if journal.is_written:
            continue
        with journal.claimed("courier", patience() + _GRACE_SECONDS) as free:
            if not journal.events_file.exists():
                continue  # delivered meanwhile
            if not free:
                results[journal.folder.name] = "a courier is still at work on it"
                continue
            try:
                _deliver_leftover(journal, store)
                results[journal.folder.name] = None
            except expected_faults() as fault:
                results[journal.folder.name] = redacted(str(fault))
    return results


def expected_faults() -> tuple[type[Exception], ...]:
    """What a store, the network, a disk or a damaged journal may raise; anything else is a fault of the code."""
    import boto3.exceptions
    import botocore.exceptions
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    of_s3 = (boto3.exceptions.Boto3Error, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
    return (SensoriumError, OSError, MlflowException, SQLAlchemyError, *of_s3)


def _deliver_leftover(journal: Journal, store: Store) -> None:
    close_if_killed(journal)
    if journal.contents().header:
        Courier(journal, store).deliver()
    if journal.is_finished and not journal.is_written:
        journal.remove()


def close_if_killed(journal: Journal) -> None:
    """Note the end of a run whose training ended without a word."""
    with journal.claimed("writer") as free:
        if not free or journal.is_closed:
            return
        journal.mend()
        if journal.contents().header:
            journal.append("close", status="KILLED")
