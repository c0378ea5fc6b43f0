"""What a run has for MLflow, on disk before it is on any server.

An event log is a folder of one run: `events.jsonl`, one event per line, flushed to disk; `delivered.json`,
how much of it is uploaded; `artifacts/`, copies of the files to upload. The training appends, the uploader
process uploads, and neither waits for the other. An event log outlives both.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sensorium.errors import TrackingError
from sensorium.files import try_lock, write_json, write_text

FINISHED: Final = "FINISHED"
"""Status of a run that ended well; others may be resumed."""
WRITER, UPLOADER = "writer", "uploader"
"""Who may hold a log: a training, and whoever uploads."""

_FOLDER = "journals"
"""Below the state folder; the name of earlier versions, whose logs are still uploaded."""
_FIELDS = {
    "start": {"experiment", "fold", "fingerprint", "name", "tags", "params", "datasets"},
    "params": {"values"},
    "metrics": {"values", "step"},
    "artifact": {"name"},
    "close": {"status"},
}
"""What an event of a kind holds besides its time."""
_TAIL_BYTES = 256
"""More than a closing event takes."""


def now() -> int:
    """Milliseconds since the epoch, MLflow's time stamp."""
    return int(time.time() * 1000)


@dataclass
class UploadState:
    """How far a log is uploaded, and to where."""

    uri: str | None = None
    """Store that received the events, without password."""
    experiment_id: str | None = None
    run_id: str | None = None
    position: int = 0
    """Bytes of events.jsonl that the store has."""


class EventLog:
    """One run's events on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events_file = folder / "events.jsonl"
        """The events, one JSON object per line."""
        self._state_file, self._address_file = folder / "delivered.json", folder / "address"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    def append(self, kind: str, **event: Any) -> None:
        """Add an event and flush it to disk.

        Args:
            kind: `start`, `params`, `metrics`, `artifact` or `close`.
            event: its content; JSON values.

        Raises:
            TrackingError: the disk is full or refuses; the events before this one are whole.
        """
        line = json.dumps({"kind": kind, "time": now(), **event}, separators=(",", ":")) + "\n"
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.events_file.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            with contextlib.suppress(OSError):  # what cannot be cut off now is cut off when the training goes on
                self.repair()
            raise TrackingError(
                f"{self.folder}: what goes to MLflow cannot be written ({fault}).",
                "Free disk space and run the same command again: a training goes on from its last state.",
            ) from fault

    def repair(self) -> None:
        """Cut off a last line that a crash left unfinished."""
        if not self.events_file.exists():
            return
        content = self.events_file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.events_file, whole)

    def read(self, position: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the whole events from a byte position on, each with the position after it.

        Raises:
            TrackingError: the log is damaged.
        """
        if not self.events_file.exists():
            return
        with self.events_file.open("rb") as stream:
            stream.seek(position)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                try:
                    event = json.loads(line)
                    intact = event["time"] >= 0 and event.keys() >= _FIELDS[event["kind"]]
                except (ValueError, KeyError, TypeError, AttributeError):
                    intact = False
                if not intact:
                    raise TrackingError(
                        f"{self.events_file}: no event at byte {position}: the event log is damaged.",
                        "Remove its folder; `sensorium registry restore` records a finished training again.",
                    )
                position += len(line)
                yield event, position

    @property
    def header(self) -> dict[str, Any]:
        """The last event of kind `start`; empty where there is none."""
        starts = [event for event, _ in self.read() if event["kind"] == "start"]
        return starts[-1] if starts else {}

    @property
    def status(self) -> str | None:
        """Status of the closing event; None while the run is open, or where it was killed."""
        try:
            with self.events_file.open("rb") as stream:
                stream.seek(-min(_TAIL_BYTES, stream.seek(0, os.SEEK_END)), os.SEEK_END)
                last = json.loads(stream.read().split(b"\n")[-2])
        except (FileNotFoundError, IndexError, ValueError):  # no event, or one that is longer than the end of a run
            return None
        return str(last["status"]) if last.get("kind") == "close" else None

    def add_file(self, source: Path) -> str:
        """Copy a file or folder into the log, where no stage removes it before it is uploaded.

        Returns:
            Its name below `artifacts/`.

        Raises:
            TrackingError: the disk is full or refuses.
        """
        target = self.artifact(source.name)
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)
        return source.name

    def artifact(self, name: str) -> Path:
        """Where a copied file lies."""
        return self.folder / "artifacts" / name

    @property
    def upload_state(self) -> UploadState:
        """How far the log is uploaded; not at all when the record of it is missing or damaged."""
        try:
            return UploadState(**json.loads(self._state_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return UploadState()

    @upload_state.setter
    def upload_state(self, state: UploadState) -> None:
        write_json(self._state_file, asdict(state))

    @property
    def size(self) -> int:
        """Bytes of events."""
        try:
            return self.events_file.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def is_uploaded(self) -> bool:
        """Whether the store has all events."""
        return self.size <= self.upload_state.position

    @property
    def address(self) -> str:
        """Label of the store that the training writes for; empty where none is recorded yet."""
        try:
            return self._address_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @address.setter
    def address(self, label: str) -> None:
        with self._writing():
            write_text(self._address_file, label)

    def is_held(self, role: str) -> bool:
        """Whether somebody has locked the log as WRITER or UPLOADER; asking keeps nobody else from asking."""
        try:
            with self._lock_file(role).open() as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _lock_file(self, role: str) -> Path:
        return self.folder / f"{role}.lock"

    @contextlib.contextmanager
    def locked(self, role: str, seconds: float = 0.0) -> Iterator[bool]:
        """Lock the log for one role; yields whether nobody else has locked it, and it exists.

        Args:
            role: WRITER or UPLOADER.
            seconds: how long to wait for whoever holds the lock, or asks whether it is held.
        """
        try:
            stream = self._lock_file(role).open("a")
        except FileNotFoundError:
            yield False
            return
        with stream:
            free = try_lock(stream.fileno(), seconds)
            try:
                yield free
            finally:
                if free:  # processes that were forked meanwhile have copies of the descriptor
                    fcntl.flock(stream, fcntl.LOCK_UN)

    def remove(self) -> None:
        """Delete the log from disk; its name is free at once."""
        condemned = self.folder.parent.with_name(f".{self.name}.{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self.folder.rename(condemned)
        shutil.rmtree(condemned, ignore_errors=True)


def event_logs(state: Path) -> list[EventLog]:
    """All event logs below a state folder, in the order of their names."""
    return [EventLog(path.parent) for path in sorted(state.glob(f"{_FOLDER}/*/events.jsonl"))]


def log_for(state: Path, fields: Mapping[str, Any]) -> EventLog:
    """The unfinished event log of a fingerprint, or a new one beside those that are finished.

    Args:
        state: folder of the event logs and locks.
        fields: `experiment`, `fold` and `fingerprint`.
    """
    name, number = f"{fields['experiment']}-fold_{fields['fold']}-{fields['fingerprint'][:16]}", 1
    while True:
        log = EventLog(state / _FOLDER / (name if number == 1 else f"{name}.{number}"))
        if log.status != FINISHED:
            return log
        number += 1
