"""Processes of a run: how they are started, asked to stop, and cleared up after a violent death."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

GRACE_SECONDS = 30.0
"""Time that a command has to save a checkpoint after SIGTERM, before it is killed."""
CHANGED, FAILED, UNCHANGED = 0, 1, 3
"""Exit codes of a stage's process: the stage was run and recorded, it failed, it had nothing to do."""
_MARGIN_SECONDS = 5.0
"""Time over the grace in which the parent of a command has killed it."""


def members(leader: int, id_of: Callable[[int], int]) -> list[int]:
    """Running processes of a session (`id_of` is `os.getsid`) or a process group (`os.getpgid`)."""
    import psutil  # only where a command did not end by itself

    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if id_of(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


class StopSignals:
    """A context that counts SIGINT and SIGTERM instead of ending the process."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        self._before = self.install()
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> dict[int, Any]:
        """Take the signals, again where a library has taken them meanwhile; returns the handlers before."""
        return {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


class StageProcess:
    """A process that does DVC's work for a stage, leader of the session of all that it starts.

    Its standard input, which the command's shell inherits, is a pipe that this process alone can write to.
    That the pipe is closed asks the command to stop; the kernel closes it if this process is killed. DVC
    itself is never interrupted: it sees a command that failed, and leaves its files whole.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], root: Path, log: Path, lock: int
    ) -> None:
        """Start `sensorium.scheduler.stage`; the lock of the open file `lock` is held until the process has ended."""
        self._orphaned: float | None = None
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - arguments are names of stages that exist
                [sys.executable, "-m", "sensorium.scheduler.stage", *arguments],
                env=dict(environment),
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[lock],
            )

    def poll(self) -> int | None:
        """Exit code, negative after a signal; None while the process, or what a failure left behind, runs."""
        code = self._process.poll()
        if code is None:
            return None
        self.stop()  # also for the shell of a killed DVC
        if code in (CHANGED, UNCHANGED):
            return code
        orphans = members(self._process.pid, os.getsid)
        if self._orphaned is None:
            self._orphaned = time.monotonic()
            # After a violent death of DVC the command's shell still ends it; otherwise nobody does.
            _signal(orphans if code >= 0 else [], signal.SIGTERM)
        if time.monotonic() - self._orphaned > GRACE_SECONDS + _MARGIN_SECONDS:
            _signal(orphans, signal.SIGKILL)
        return None if orphans else code

    def stop(self) -> None:
        """Ask the command to end; DVC's own work goes on to its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """Kill the process and everything that it started."""
        _signal(members(self._process.pid, os.getsid), signal.SIGKILL)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
