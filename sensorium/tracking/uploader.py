"""Upload of event logs to MLflow: every event once, whatever was uploaded before.

Metrics are compared with the history that the server has before anything is sent again; a run is found
again by its fingerprint.
"""

import math
import time
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sensorium.secrets import redact
from sensorium.tracking import leaderboard, runs, sweeps
from sensorium.tracking.event_log import FINISHED, UPLOADER, WRITER, EventLog, UploadState, event_logs
from sensorium.tracking.store import TrackingStore, expected_faults
from sensorium.tracking.timeouts import ALLOWANCE_SECONDS, upload_timeout

if TYPE_CHECKING:
    from mlflow import MlflowClient

Events = list[tuple[dict[str, Any], int]]


class Uploader:
    """Uploads one event log to one store."""

    def __init__(self, log: EventLog, store: TrackingStore) -> None:
        self._log = log
        self._store = store
        self._known: dict[str, set[int]] = {}
        self._state, self._checked = log.upload_state, False

    @cached_property
    def _client(self) -> "MlflowClient":
        return self._store.client()

    def upload(self, deadline: float = math.inf) -> None:
        """Send every event that the store does not have; neighbouring metric events in as few calls as possible.

        Args:
            deadline: time of `time.monotonic` after which nothing more is begun.

        Raises:
            Exception: whatever MLflow raises; what arrived before it is recorded in the log.
        """
        try:
            for _, group in groupby(self._waiting(), lambda item: item[0]["kind"] == "metrics" or item[1]):
                batch = list(group)
                self._send(self._client, batch)
                self._state.position = batch[-1][1]
                self._log.upload_state = self._state
                if time.monotonic() > deadline:
                    return
        except BaseException:
            self._known = {}  # what was under way may have arrived
            raise

    def _waiting(self) -> Events:
        """Events to send: from the beginning when the run is to be another one than before."""
        events = list(self._log.read(self._state.position))
        started = any(event["kind"] == "start" for event, _ in events)
        if (started or not self._checked) and self._is_replaced(self._client):
            self._state, self._known = UploadState(), {}
            events = list(self._log.read())
        self._checked = True
        return events

    def _is_replaced(self, client: "MlflowClient") -> bool:
        """Whether the run is gone, in another store, or replaced by one that `mlflow run` made."""
        run_id, adopted = self._state.run_id, self._log.header.get("adopt")
        if run_id is None:
            return False
        here = self._state.uri == self._store.label and runs.is_alive(client, run_id)
        replaced = adopted not in {None, run_id}
        if here and replaced:
            client.set_tag(run_id, "sensorium.continued_by", adopted)
            client.set_terminated(run_id, "KILLED")
        return replaced or not here

    def _send(self, client: "MlflowClient", batch: Events) -> None:
        event = batch[0][0]
        if self._state.run_id is None:
            self._attach(client)
        run_id = self._state.run_id
        assert run_id is not None, "attached above"
        match event["kind"]:
            case "start":
                client.update_run(run_id, status="RUNNING")
                runs.log_params(client, run_id, event["params"])
                runs.log_datasets(client, run_id, event["datasets"])
            case "metrics":
                self._send_metrics(client, run_id, [item for item, _ in batch])
            case "params":
                runs.log_params(client, run_id, event["values"])
            case "artifact":
                source = self._log.artifact(event["name"])
                if source.is_dir():
                    client.log_artifacts(run_id, str(source), source.name)
                elif source.exists():
                    client.log_artifact(run_id, str(source))
            case "close":
                client.set_terminated(run_id, event["status"], event["time"])
                if event["status"] == FINISHED:
                    runs.summarise(client, run_id)
                    leaderboard.describe(client, run_id)

    def _attach(self, client: "MlflowClient") -> None:
        header = self._log.header  # a later start may name another run to adopt
        attach = sweeps.attach if header["tags"][runs.ROLE] in {sweeps.SWEEP, sweeps.TRIAL} else runs.attach
        experiment_id, run_id = attach(client, self._store, header)
        self._state = UploadState(self._store.label, experiment_id, run_id, self._state.position)
        self._log.upload_state = self._state

    def _send_metrics(self, client: "MlflowClient", run_id: str, events: list[dict[str, Any]]) -> None:
        unknown = {key for event in events for key in event["values"]} - self._known.keys()
        if unknown:
            self._known |= runs.known_steps(client, run_id, unknown)
        batch = {
            (key, event["step"]): (key, value, event["time"], event["step"])
            for event in reversed(events)  # of a step that a resumed training repeats, the first value is kept
            for key, value in event["values"].items()
            if event["step"] not in self._known[key]
        }
        runs.log_metrics(client, run_id, batch.values())
        for key, step in batch:
            self._known[key].add(step)


def upload_remaining(store: TrackingStore) -> dict[str, str | None]:
    """Upload the event logs of trainings that are over, and delete those that are then of no more use.

    An uploader that is at work on one is waited for. Returns what went wrong, by log; None where everything arrived.
    """
    results: dict[str, str | None] = {}
    for log in event_logs(store.state):
        if log.is_held(WRITER):
            continue
        with log.locked(UPLOADER, upload_timeout() + ALLOWANCE_SECONDS) as free:
            if not log.events_file.exists():
                continue  # uploaded meanwhile
            if not free:
                results[log.name] = "an uploader is still at work on it"
                continue
            try:
                close_if_killed(log)
                Uploader(log, store).upload()
                if log.status == FINISHED and not log.is_held(WRITER):
                    log.remove()
                results[log.name] = None
            except expected_faults() as fault:
                results[log.name] = redact(str(fault), store.home)
    return results


def close_if_killed(log: EventLog) -> None:
    """Record the end of a run whose training was killed."""
    with log.locked(WRITER) as free:
        if not free or log.status is not None:
            return
        log.repair()
        if log.header:
            log.append("close", status="KILLED")
