"""Optuna's journal file, made fit for kills: what belongs together is written as one.

Optuna writes a trial and each of its parameters as records of their own, and waits for half a minute for
the lock file of a process that was killed. Here the lock is the kernel's, which goes with its process, a record
that was cut off by a kill is removed, and `together` makes one write of several.
"""

import contextlib
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from sensorium.files import waiting_lock


class Journal(JournalFileBackend):
    """A journal on a disk that all processes of a sweep share."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(str(path))
        self._path = path
        self._waiting: list[dict[str, Any]] | None = None
        self._written = 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Keep others out, and write all that the block records when it ends; nothing where it raises."""
        with waiting_lock(self._path.with_suffix(".lock")):
            self._mend()
            self._waiting = []
            try:
                yield
                self._write(self._waiting)
            finally:
                self._waiting = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See Optuna's `BaseJournalBackend`."""
        if self._waiting is None:
            with self.together():
                self.append_logs(logs)
        else:
            self._waiting += logs

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See Optuna's `BaseJournalBackend`; what waits to be written counts."""
        yield from super().read_logs(log_number_from)
        if self._waiting:
            yield from self._waiting[max(0, log_number_from - self._written) :]

    def _mend(self) -> None:
        """Count the records, and cut off a last one that a kill left unfinished."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._path, whole)
        self._written = content.count(b"\n")

    def _write(self, logs: list[dict[str, Any]]) -> None:
        if not logs:
            return
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        before = self._path.stat().st_size
        try:
            with self._path.open("ab") as stream:
                stream.write(lines.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:  # a full disk
            os.truncate(self._path, before)
            raise
