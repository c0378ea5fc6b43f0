"""Delivery of journals to MLflow, in a process of its own.

The training pays neither for MLflow's import nor for a slow server, and its end, even by SIGKILL,
closes the pipe that the courier listens on. The courier then has a few seconds to deliver the rest;
what it cannot deliver stays on disk for `sensorium sync`. Every event is delivered once: metrics are
compared with the history that the server has before anything is sent again.
"""

import logging
import math
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.paths import Paths
from sensorium.tracking import runs
from sensorium.tracking.journal import FINISHED, Delivery, Journal, journals
from sensorium.tracking.store import Store, be_brief, patience, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

_POLL_SECONDS = 2.0
"""Pause between two deliveries: what gathers meanwhile costs MLflow one call, not one each."""

_RETRY_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_GROUP = 200
"""Metric events sent in one go."""

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
            for group in _groups(list(self._journal.read(self._start()))):
                self._send(group)
                self._delivery.position = group[-1][1]
                self._journal.note(self._delivery)
                if time.monotonic() > deadline:
                    return
        except BaseException:
            self._known = {}  # what was under way may have arrived
            raise

    def _start(self) -> int:
        """Position to go on from: the beginning when the run is to be another one than before."""
        if self._client is None:
            self._client = self._store.client()
            self._check_run(self._client)
        return self._delivery.position

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

    def _begin(self, client: "MlflowClient", event: dict[str, Any]) -> None:
        if self._delivery.run_id is None:
            header = self._journal.contents().header  # a later start may name another run to adopt
            experiment_id, run_id = runs.attach(client, self._store, header)
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


def follow(journal: Journal, store: Store, ended: "Ended") -> None:
    """Deliver a journal while it is written, until its run is closed and all of it has arrived.

    After the training's end it tries for `patience` seconds more; what is left then stays on disk.
    """
    courier, pause, deadline = Courier(journal, store), 0.0, math.inf
    leftovers = True
    while True:
        over = ended.wait(pause or _POLL_SECONDS)
        if over:
            deadline = min(deadline, time.monotonic() + patience())
            close_if_killed(journal)
        try:
            courier.deliver(deadline)
        except Exception as fault:  # whatever the server does, the training goes on
            _log.warning("%s: %s", journal.folder.name, fault)
            pause = min(max(2 * pause, _RETRY_SECONDS), _LONGEST_PAUSE_SECONDS)
        else:
            pause = 0.0
            if journal.contents().status is not None and not journal.pending:
                return
            if leftovers and not over:
                deliver_leftovers(store)
                leftovers = False
        if time.monotonic() > deadline:
            return


def deliver_leftovers(store: Store) -> dict[str, str | None]:
    """Deliver the journals that no process holds, and delete those that are then of no more use.

    Returns:
        What went wrong, by journal; None where everything arrived.
    """
    results: dict[str, str | None] = {}
    for journal in journals(store.state):
        with journal.claimed("courier") as free, journal.claimed("writer") as idle:
            if not (free and idle):
                continue
            try:
                _deliver_leftover(journal, store)
                results[journal.folder.name] = None
            except Exception as fault:
                results[journal.folder.name] = redacted(str(fault))
    return results


def _deliver_leftover(journal: Journal, store: Store) -> None:
    journal.mend()
    contents = journal.contents()
    if not contents.header:
        return
    if contents.status is None:
        journal.append("close", status="KILLED")
    Courier(journal, store).deliver()
    if contents.status == FINISHED:
        journal.remove()


def close_if_killed(journal: Journal) -> None:
    """Note the end of a run whose training ended without a word."""
    with journal.claimed("writer") as free:
        contents = journal.contents()
        if free and contents.header and contents.status is None:
            journal.append("close", status="KILLED")


class _Redacting(logging.Formatter):
    """Keeps the password of the tracking URI out of the log."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class Ended:
    """Tells whether the training that started this process is over."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._over = False

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the training, at most `seconds`; returns whether it is over."""
        if self._over:
            time.sleep(min(seconds, _RETRY_SECONDS))
        elif select.select([sys.stdin], [], [], seconds)[0]:
            self._over = os.read(sys.stdin.fileno(), 1) == b""
        self._over = self._over or os.getppid() != self._parent
        return self._over


def main(folder: Path, root: Path) -> None:
    """Deliver the journal that a training writes, and on the way those that earlier ones left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the training, whose end reaches the courier
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    be_brief()
    journal, store = Journal(folder), Store.of(Paths(root))
    with journal.claimed("courier") as free:
        if free:
            follow(journal, store, Ended())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
