"""What a run has to tell MLflow, on disk before it is on any server.

A journal is a folder of one run: `events.jsonl`, one event a line, flushed to disk; `delivered.json`,
how much of it the server has; `artifacts/`, copies of the files to upload. The training appends, a
courier process delivers, and neither waits for the other. A journal outlives both.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sensorium.errors import TrackingError
from sensorium.files import try_lock, write_json, write_text

FINISHED: Final = "FINISHED"
"""Status of a run that ended well; others may be resumed."""

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
class Delivery:
    """How far a journal is delivered, and to where."""

    uri: str | None = None
    """Store that received the events, without password."""
    experiment_id: str | None = None
    run_id: str | None = None
    position: int = 0
    """Bytes of events.jsonl that the store has."""


@dataclass
class Contents:
    """What a journal's events add up to."""

    steps: set[tuple[str, int]] = field(default_factory=set)
    """(metric key, step) of every metric."""
    params: set[str] = field(default_factory=set)
    header: dict[str, Any] = field(default_factory=dict)
    """The last event of kind `start`."""
    status: str | None = None
    """Closing status, None while the run is open."""


class Journal:
    """One run's events on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def events_file(self) -> Path:
        """The events, one JSON object a line."""
        return self.folder / "events.jsonl"

    @property
    def _delivered_file(self) -> Path:
        return self.folder / "delivered.json"

    def append(self, kind: str, **event: Any) -> None:
        """Add an event and flush it to disk.

        Args:
            kind: `start`, `params`, `metrics`, `artifact` or `close`.
            event: what it says; JSON values.

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
                self.mend()
            raise TrackingError(
                f"{self.folder}: what goes to MLflow cannot be written ({fault}).",
                "Free disk space and run the same command again: a training goes on from its last state.",
            ) from fault

    def mend(self) -> None:
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
            TrackingError: the journal is damaged.
        """
        if not self.events_file.exists():
            return
        with self.events_file.open("rb") as stream:
            stream.seek(position)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                event = self._event(line, position)
                position += len(line)
                yield event, position

    def _event(self, line: bytes, position: int) -> dict[str, Any]:
        try:
            event = json.loads(line)
            if event["time"] >= 0 and event.keys() >= _FIELDS[event["kind"]]:
                return dict(event)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise TrackingError(
            f"{self.events_file}: no event at byte {position}: the journal is damaged.",
            "Remove its folder; `sensorium registry restore` records a finished training again.",
        )

    def contents(self) -> Contents:
        """Sum up the events."""
        found = Contents()
        for event, _ in self.read():
            match event["kind"]:
                case "start":
                    found.header, found.status = event, None
                case "params":
                    found.params |= set(event["values"])
                case "metrics":
                    found.steps |= {(key, event["step"]) for key in event["values"]}
                case "close":
                    found.status = event["status"]
        return found

    def keep(self, source: Path) -> str:
        """Copy a file or folder into the journal, where no stage removes it before it is uploaded.

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
        """Where a kept file lies."""
        return self.folder / "artifacts" / name

    @property
    def delivery(self) -> Delivery:
        """How far the journal is delivered; not at all when the note of it is missing or damaged."""
        try:
            return Delivery(**json.loads(self._delivered_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Delivery()

    def note(self, delivery: Delivery) -> None:
        """Remember how far the journal is delivered."""
        write_json(self._delivered_file, delivery.__dict__)

    @property
    def pending(self) -> int:
        """Number of events that the store does not have."""
        return sum(1 for _ in self.read(self.delivery.position))

    @property
    def waits(self) -> bool:
        """Whether the store does not have all events."""
        try:
            return self.events_file.stat().st_size > self.delivery.position
        except FileNotFoundError:
            return False

    @property
    def is_closed(self) -> bool:
        """Whether the last event is the run's end."""
        return self._last().get("kind") == "close"

    @property
    def is_finished(self) -> bool:
        """Whether the run ended well."""
        return self.is_closed and self._last()["status"] == FINISHED

    def _last(self) -> dict[str, Any]:
        """The last event when it is a short one, as the end is."""
        try:
            with self.events_file.open("rb") as stream:
                stream.seek(-min(_TAIL_BYTES, stream.seek(0, os.SEEK_END)), os.SEEK_END)
                last: dict[str, Any] = json.loads(stream.read().split(b"\n")[-2])
        except (FileNotFoundError, IndexError, ValueError):
            return {}
        return last

    @property
    def address(self) -> str:
        """Label of the store that the training writes for; empty while nobody told."""
        try:
            return self._address_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def address_to(self, label: str) -> None:
        """Tell which store the training writes for.

        Raises:
            TrackingError: the disk is full or refuses.
        """
        with self._writing():
            write_text(self._address_file, label)

    @property
    def _address_file(self) -> Path:
        return self.folder / "address"

    @property
    def is_written(self) -> bool:
        """Whether a training holds the journal."""
        return self._is_held("writer")

    @property
    def is_attended(self) -> bool:
        """Whether a delivery holds the journal."""
        return self._is_held("courier")

    def _is_held(self, role: str) -> bool:
        """Whether somebody holds a role; asking keeps nobody else from asking."""
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
    def claimed(self, role: str, seconds: float = 0.0) -> Iterator[bool]:
        """Hold the journal for one role; yields whether nobody else holds it, and it exists.

        Args:
            role: `writer` for a training, `courier` for a delivery.
            seconds: how long to wait for who holds it, or asks whether it is held.
        """
        with contextlib.ExitStack() as held:
            try:
                stream = held.enter_context(self._lock_file(role).open("a"))
            except FileNotFoundError:
                yield False
                return
            free = try_lock(stream.fileno(), seconds)
            try:
                yield free
            finally:
                if free:  # processes that were forked meanwhile have copies of the descriptor
                    fcntl.flock(stream, fcntl.LOCK_UN)

    def remove(self) -> None:
        """Delete the journal from disk; its name is free at once."""
        condemned = self.folder.parent.with_name(f".{self.folder.name}.{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self.folder.rename(condemned)
        shutil.rmtree(condemned, ignore_errors=True)


def journals(state: Path) -> list[Journal]:
    """All journals below a state folder, in the order of their names."""
    return [Journal(path.parent) for path in sorted(state.glob("journals/*/events.jsonl"))]


def journal_name(fields: Mapping[str, Any]) -> str:
    """Folder name of a run's journal: experiment, fold and the start of its fingerprint."""
    return f"{fields['experiment']}-fold_{fields['fold']}-{str(fields['fingerprint'])[:16]}"


def journal_for(state: Path, fields: Mapping[str, Any]) -> Journal:
    """The unfinished journal of a fingerprint, or a new one beside those that are finished.

    Args:
        state: folder of the journals and locks.
        fields: `experiment`, `fold` and `fingerprint`.
    """
    name, number = journal_name(fields), 1
    while True:
        journal = Journal(state / "journals" / (name if number == 1 else f"{name}.{number}"))
        if not journal.events_file.exists() or journal.contents().status != FINISHED:
            return journal
        number += 1
