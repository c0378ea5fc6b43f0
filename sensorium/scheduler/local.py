"""The protocol of executors, and the executor of this machine.

DVC always runs on the coordinator's host, since its locks test local process ids; only the commands go elsewhere.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sensorium.processes import die_with_parent
from sensorium.scheduler.processes import GRACE_SECONDS, members

LOG_VARIABLE = "SENSORIUM_STAGE_LOG"
"""Environment variable with the log of a stage."""
LOCK_VARIABLE = "SENSORIUM_STAGES_LOCK"
"""Environment variable with the file whose shared lock all processes of a run hold."""
CLUSTER_TIMEOUT = 60.0
"""Seconds that a cluster has to answer."""
_NICENESS = 5
"""Commands yield to DVC's own work, so that the next ones start soon where all cores are busy."""
_WITHOUT_PROFILE = {"bash": ["--noprofile", "--norc"], "zsh": ["--no-rcs"], "fish": ["--no-config"]}


class Handle(Protocol):
    """A submitted command."""

    def poll(self) -> int | None:
        """Exit code, 128 + n after a signal n; None while the command waits or runs."""
        ...

    def cancel(self, force: bool = False) -> None:
        """Ask the command to end; kill it when `force`. Does not wait; may be repeated."""
        ...


class Executor(Protocol):
    """Starts commands; `executors.make_executor` chooses among those of this machine, of Slurm and of Ray.

    To add one, write a function like this and return it from `make_executor`:

    Examples:
        >>> class Finished:
        ...     def __init__(self, code):
        ...         self.code = code
        ...     def poll(self):
        ...         return self.code
        ...     def cancel(self, force=False):
        ...         pass
        >>> def run_in_foreground(command, environment, folder, log):
        ...     with log.open("ab") as output:
        ...         done = subprocess.run(shell_call(command, environment), env=environment, cwd=folder, stdout=output)
        ...     return Finished(done.returncode)
        >>> executor: Executor = run_in_foreground
        >>> wait([executor("exit 3", {}, Path.cwd(), Path(os.devnull))])
        [3]
    """

    def __call__(self, command: str, environment: Mapping[str, str], folder: Path, log: Path, /) -> Handle:
        """Start what `$SHELL -c` takes.

        Args:
            command: the command.
            environment: all of its environment.
            folder: its working folder, which has the same path wherever the command runs.
            log: file to which its output is appended.
        """
        ...


class LocalHandle:
    """A command in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._cancelled = False

    def poll(self) -> int | None:
        """See `Handle`.

        The shell that leads the group dies from SIGTERM at once, while a training under it saves a checkpoint:
        a cancelled command has ended when all of its group has. The leader is left unreaped until then, so
        that its id stays the group's.
        """
        if self._cancelled and members(self._process.pid, os.getpgid):
            return None
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def cancel(self, force: bool = False) -> None:
        """See `Handle`; everything that the command started in its group is meant."""
        self._cancelled = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL if force else signal.SIGTERM)


def run_here(command: str, environment: Mapping[str, str], folder: Path, log: Path) -> LocalHandle:
    """Executor of this machine; the command is killed when this process dies without having ended it."""
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


def wait(
    handles: Sequence[Handle],
    stop: Callable[[], bool] = lambda: False,
    on_tick: Callable[[], None] = lambda: None,
    grace: float = GRACE_SECONDS,
    tick: float = 0.05,
) -> list[int]:
    """Wait until all commands have ended, and return their exit codes.

    Args:
        handles: the commands.
        stop: whether they are to be ended.
        on_tick: called every `tick` seconds.
        grace: seconds that they have to end before they are killed.
        tick: seconds between two polls.
    """
    deadline = None
    while None in (codes := [handle.poll() for handle in handles]):
        if deadline is None and stop():
            deadline = time.monotonic() + grace
            for handle in handles:
                handle.cancel()
        if deadline is not None and time.monotonic() > deadline:
            for handle in handles:
                handle.cancel(force=True)
        on_tick()
        time.sleep(tick)
    return [code for code in codes if code is not None]
