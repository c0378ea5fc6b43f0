"""The coordinator's side of a stage's process: start, watch, end, and clear up after a violent death."""

import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sensorium.files import write_text
from sensorium.repro import process, survivors, variables
from sensorium.repro.executors import GRACE

_MARGIN = 5.0
"""Seconds over `GRACE` in which a command that was told to end has been killed by its own parent."""

_DRAIN = 0.05
"""Seconds between two looks at what a dead process left behind."""


class Nursery:
    """Starts children from a fork server that has imported DVC once.

    Each child has a pipe, whose writing end this process alone holds, to tell that this process has died:
    the fork server, its parent, lives on for as long as a child does.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(process.PRELOAD))

    def start(self, work: Callable[..., None], *arguments: Any) -> "Child":
        """Run `work(lifeline, *arguments)` in a new process; `lifeline` ends when this process does."""
        # One pipe a child: who gets the signal of its end is a property of the open pipe.
        lifeline, held = self._context.Pipe(duplex=False)
        with lifeline:
            new = self._context.Process(target=work, args=(lifeline, *arguments))
            new.start()
        return Child(new, held)


class Child:
    """One process of a run, the leader of its session."""

    def __init__(self, process: Any, held: Connection) -> None:
        self._process = process
        self._held = held
        self._bereaved: float | None = None
        self.started = time.monotonic()

    @property
    def pid(self) -> int:
        """Process id, and id of the session that all its descendants belong to."""
        return int(self._process.pid)

    @property
    def sentinel(self) -> int:
        """Becomes readable when the process ends."""
        return int(self._process.sentinel)

    @property
    def alive(self) -> bool:
        """Whether the process itself still runs."""
        return self._process.exitcode is None

    def poll(self) -> int | None:
        """Exit code, negative after a signal; None while it, or what it left behind, still lives."""
        code: int | None = self._process.exitcode
        if code is None or code in (process.CHANGED, process.UNCHANGED):
            return code
        orphans = survivors.of_session(self.pid)
        if self._bereaved is None:
            self._bereaved = time.monotonic()
            # After a violent death the shell still sees to the command; else nobody does.
            _signal(orphans if code >= 0 else [], signal.SIGTERM)
        if orphans and time.monotonic() - self._bereaved > GRACE + _MARGIN:
            _signal(orphans, signal.SIGKILL)
        return None if orphans else code

    def end(self) -> None:
        """Ask it to end in good order, its command first."""
        _signal([self.pid] if self.alive else [], signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and everything that it started."""
        _signal(survivors.of_session(self.pid), signal.SIGKILL)


def wait_for_any(children: Iterable[Child], seconds: float) -> None:
    """Sleep until one of the processes ends, `seconds` at most."""
    children = list(children)
    alive = [child.sentinel for child in children if child.alive]
    if len(alive) < len(children):
        seconds = min(seconds, _DRAIN)
    if alive:
        wait(alive, seconds)
    elif children:
        time.sleep(seconds)


def install_shell(folder: Path) -> Path:
    """Write the script that stands in for the user's shell (see `sensorium.repro.shell`).

    Args:
        folder: a folder for state of the project.

    Returns:
        The script.
    """
    script = folder / "shell"
    write_text(script, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {variables.SHELL_MODULE} "$@"\n')
    script.chmod(0o755)
    return script


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
