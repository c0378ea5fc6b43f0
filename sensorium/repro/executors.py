"""Where the command of a stage runs: a protocol of three verbs, and the implementation for this machine.

DVC always runs on the coordinator's host, since its locks look at local process ids; only the commands
go elsewhere.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sensorium.repro import survivors
from sensorium.repro.deathsig import die_with_parent

GRACE = 30.0
"""Seconds that a command has to end after SIGTERM, to save its state, before it is killed."""

_NICENESS = 5
"""Commands step back behind DVC's own work, so that the next ones start soon where all cores are busy."""


class Handle(Protocol):
    """A submitted command."""

    def poll(self) -> int | None:
        """Exit code, 128 + n after a signal n; None while the command waits or runs."""
        ...

    def cancel(self, force: bool = False) -> None:
        """Ask the command to end; kill it when `force`. Does not wait; may be repeated."""
        ...


class Executor(Protocol):
    """A place to run commands."""

    def submit(self, command: str, environment: Mapping[str, str], folder: Path, log: Path) -> Handle:
        """Start a shell command.

        Args:
            command: what `$SHELL -c` takes.
            environment: all of the command's environment.
            folder: its working folder, at the same path wherever the command runs.
            log: file that its output is appended to.
        """
        ...


class LocalHandle:
    """A command in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._cancelled = False

    def poll(self) -> int | None:
        """See `Handle`.

        The shell that leads the group dies from SIGTERM at once, while a training under it saves its state:
        a cancelled command has ended when all of its group has. The leader is left unreaped until then, so
        that its id stays the group's.
        """
        if self._cancelled and survivors.of_group(self._process.pid):
            return None
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def cancel(self, force: bool = False) -> None:
        """See `Handle`; everything that the command started in its group is meant."""
        self._cancelled = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL if force else signal.SIGTERM)


class LocalExecutor:
    """Run on this machine."""

    def submit(self, command: str, environment: Mapping[str, str], folder: Path, log: Path) -> LocalHandle:
        """See `Executor`; the command is killed when this process dies without having ended it."""
        parent = os.getpid()

        def begin() -> None:
            die_with_parent(signal.SIGKILL, parent)
            os.nice(_NICENESS)

        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - the commands of dvc.yaml are what is to be run
                shell_call(command, environment),
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
                preexec_fn=begin,
            )
        return LocalHandle(process)


def shell_call(command: str, environment: Mapping[str, str]) -> list[str]:
    """The call of the user's shell that runs a command, without start-up files, as DVC itself makes it."""
    shell = environment.get("SHELL") or "/bin/sh"
    return [shell, *_WITHOUT_PROFILE.get(Path(shell).name, []), "-c", command]


_WITHOUT_PROFILE = {"bash": ["--noprofile", "--norc"], "zsh": ["--no-rcs"], "fish": ["--no-config"]}
