"""Where commands run: a protocol, the implementation for this machine, the choice by name; GPUs.

DVC always runs on the coordinator's host, since its locks test local process ids; only the commands
go elsewhere.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from sensorium.errors import ConfigError, PipelineError
from sensorium.processes import die_with_parent
from sensorium.scheduler.processes import GRACE_SECONDS, StopSignals, members

EXECUTORS = ("local", "slurm", "ray")
LOG_VARIABLE = "SENSORIUM_STAGE_LOG"
"""Environment variable with the log of a stage."""
LOCK_VARIABLE = "SENSORIUM_STAGES_LOCK"
"""Environment variable with the file whose shared lock all processes of a run hold."""
CLUSTER_TIMEOUT = 60.0
"""Seconds that a cluster has to answer."""
_NICENESS = 5
"""Commands yield to DVC's own work, so that the next ones start soon where all cores are busy."""
_LINE = re.compile(r"^\s*(?:GPU (?P<index>\d+):.*|MIG .*)\(UUID: (?P<uuid>[\w./-]+)\)", re.MULTILINE)
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
    """Starts commands; `make_executor` chooses among those of this machine, of Slurm and of Ray.

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


class Worker(NamedTuple):
    """A command that finds its own work."""

    command: str
    """What `$SHELL -c` takes; no two of them are equal."""
    environment: Mapping[str, str]
    log: Path


def run_workers(executor: Executor, workers: Sequence[Worker], folder: Path, on_tick: Callable[[], None]) -> list[int]:
    """Run commands in a folder, in parallel, until all of them have ended, and return their exit codes.

    Raises:
        KeyboardInterrupt: asked to stop; all commands were asked to, and have ended.
    """
    handles: list[Handle] = []
    with StopSignals() as signals:
        try:
            for worker in workers:
                handles.append(executor(worker.command, worker.environment, folder, worker.log))
            signals.install()  # again: a cluster's library may have taken the signals
            codes = wait(handles, lambda: signals.count > 0, on_tick, tick=0.2)
        except BaseException:
            wait(handles, lambda: True)
            raise
    if signals.count:
        raise KeyboardInterrupt
    return codes


def make_executor(name: str, gpus: int) -> Executor:
    """The executor of a name that `check` has passed, whose commands each ask a cluster for `gpus` GPUs."""
    if name == "slurm":
        from sensorium.scheduler import slurm

        return partial(slurm.submit, gpus)
    if name == "ray":
        from sensorium.scheduler import ray_executor

        return partial(ray_executor.submit, gpus)
    return run_here


def check(name: str, gpus: int) -> None:
    """Find out before a run whether its executor can work.

    Raises:
        ConfigError: there is no such executor, it is not installed, or its cluster lacks the GPUs.
        PipelineError: its cluster does not answer.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"--executor {name!r}: does not exist.", f"Choose one of: {', '.join(EXECUTORS)}.")
    if name == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("--executor slurm: no sbatch on this machine.", "Run it on a login node of the cluster.")
    if name == "ray":
        _check_ray(gpus)


def _check_ray(gpus: int) -> None:
    """Ask the cluster what it has, in another process: Ray's client may hang, or abort its process."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--executor ray: Ray is not installed.", "Install the extra: pip install 'sensorium[ray]'")
    remedy = "Start a cluster (ray start --head), or set RAY_ADDRESS to the address of a running head."
    call = [sys.executable, "-m", "sensorium.scheduler.ray_executor"]
    try:
        answer = subprocess.run(call, capture_output=True, text=True, timeout=CLUSTER_TIMEOUT, check=True)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise PipelineError(f"Ray: no answer from the cluster in {CLUSTER_TIMEOUT:.0f} s.", remedy) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().rpartition("\n")[2] or "unknown reason"
        raise PipelineError(f"Ray: no cluster to run on ({reason}).", remedy) from None
    available = json.loads(answer.stdout.splitlines()[-1]).get("GPU", 0)
    if gpus > available:
        raise ConfigError(f"--gpus-per-stage {gpus}: the Ray cluster has {available:g} GPUs.", "Ask for fewer.")


def _present_gpus() -> list[str]:
    """Indices and UUIDs of the GPUs and their MIG slices; empty without an NVIDIA driver."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return []
    return [name for match in _LINE.finditer(listing.stdout) for name in (match["index"], match["uuid"]) if name]


def parse_gpus(text: str) -> list[str]:
    """Parse `0,1,2` or UUIDs; raises a ConfigError for a GPU that is named twice, or that this machine lacks."""
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--gpus {text!r}: name each GPU once.", "For example: --gpus 0,1")
    known = _present_gpus()
    for name in wanted:
        if name not in known:
            found = ", ".join(known) if known else "none; `nvidia-smi -L` lists none or does not run"
            raise ConfigError(f"--gpus: no GPU {name!r} on this machine.", f"Present: {found}.")
    return wanted


def lease(gpu: str | None) -> dict[str, str]:
    """Environment that shows a stage its GPU alone, numbered as `nvidia-smi` numbers them."""
    return {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
