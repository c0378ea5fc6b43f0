"""The process of one stage: DVC, in a fork of a server that has already imported it.

A fork costs a fifth of a second where a new `dvc repro --single-item <stage>` costs three times that,
and does the same: it takes DVC's lock, tests whether the stage changed, runs its command with the lock
released, saves the outputs and records them.
"""

import fcntl
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import Lock, LockBase
from dvc.repo import Repo, lock_repo

from sensorium.repro.claims import claim
from sensorium.repro.deathsig import die_with_parent
from sensorium.repro.record import own_entries, record
from sensorium.repro.variables import CLAIMS, LOG, PARENT

CHANGED, FAILED, UNCHANGED = 0, 1, 3
"""Exit codes: the stage was run and recorded, it failed, it had nothing to do."""

PRELOAD = (
    "sensorium.cli",  # each process runs the program's main module anew, whose imports are then there
    __name__,
    "dvc.repo.index",
    "dvc.repo.reproduce",
    "dvc.repo.stage",
    "dvc.repo.artifacts",
    "dvc.repo.datasets",
    "dvc.repo.metrics",
    "dvc.repo.params",
    "dvc.repo.plots",
    "dvc.cachemgr",
    "dvc.data_cloud",
    "dvc.dirs",
    "dvc.dvcfile",
    "dvc.parsing.context",
    "dvc.scm",
    "dvc.stage.cache",
    "dvc.stage.run",
    "dvc.utils.strictyaml",
    "dvc_data.hashfile._progress",
    "dvc_data.hashfile.build",
    "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.state",
    "dvc_data.hashfile.status",
    "configobj",
    "dulwich.ignore",
    "dulwich.index",
    "dulwich.worktree",
    "fsspec.implementations.memory",
    "platformdirs.unix",
    "ruamel.yaml",
)
"""Modules that the fork server imports once for all stages."""

_INSIST = 0.5
"""Seconds between reminders to end."""

_log = logging.getLogger("dvc")


@dataclass(frozen=True)
class Order:
    """What a stage's process is to do."""

    root: Path
    names: tuple[str, ...]
    """The stage to run, or those to push."""

    environment: Mapping[str, str]
    log: Path
    """Where the output of DVC and of the command goes; appended to."""

    claims: Path
    locks: Mapping[str, Sequence[str]]
    """See `graph.Plan.locks`."""


class _PatientLock(LockBase):  # type: ignore[misc] # DVC is not typed
    """DVC's lock of the repository, waited for without polling; any DVC process sees it as its own."""

    def __init__(self, lockfile: str) -> None:
        super().__init__(lockfile)
        self._descriptor: int | None = None

    def lock(self) -> None:
        descriptor = os.open(self.lockfile, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor

    def unlock(self) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None

    @property
    def is_locked(self) -> bool:
        return self._descriptor is not None

    def __enter__(self) -> None:
        self.lock()

    def __exit__(self, *_fault: object) -> None:
        self.unlock()


def run(lifeline: Connection, order: Order) -> None:
    """Bring one stage up to date and exit with one of the codes above."""
    _enter(lifeline, order)
    with claim(order.claims):
        _leave_with(lifeline)
        sys.exit(_attempt(order))


def push(lifeline: Connection, order: Order, remote: str | None) -> None:
    """Send the cached outputs of finished stages to a remote; exits with `CHANGED` or `FAILED`."""
    _enter(lifeline, order)
    with claim(order.claims):
        _leave_with(lifeline)
        try:
            with _open(order.root) as repo:
                _push(repo, order.names, remote)
        except DvcException as fault:
            _log.error("%s", fault)
            sys.exit(FAILED)
        sys.exit(CHANGED)


def _attempt(order: Order) -> int:
    def reproduce(stage: Any, **options: Any) -> Any:
        done = stage.reproduce(**options)
        if done:
            record(stage, order.locks)
        return done

    try:
        with _open(order.root) as repo, own_entries(order.names):
            done = repo.reproduce(list(order.names), single_item=True, repro_fn=reproduce)
    except DvcException as fault:
        _log.error("%s", fault.__cause__ or fault)
        return FAILED
    return CHANGED if done else UNCHANGED


def _push(repo: Repo, names: Sequence[str], remote: str | None) -> None:
    """Collect under DVC's lock, send without it: stages that end meanwhile need not wait."""
    target = repo.cloud.get_remote(remote, "push")
    if target.worktree or target.fs.version_aware:
        repo.push(targets=list(names), remote=remote)
        return
    with lock_repo(repo):
        stages = [stage for name in names for stage in repo.stage.collect(name)]
        objects = {found for stage in stages for group in stage.get_used_objs(push=True).values() for found in group}
    result = repo.cloud.push(objects, remote=remote)
    if result.failed:
        raise DvcException(f"{len(result.failed)} files were not pushed")


def _open(root: Path) -> Repo:
    repo = Repo(str(root), _wait_for_lock=True)
    if isinstance(repo.lock, Lock):
        repo.lock = _PatientLock(repo.lock.lockfile)
    return repo


def _enter(lifeline: Connection, order: Order) -> None:
    """Leave the coordinator's terminal and become what a fresh process would be."""
    parent = os.getppid()
    os.setsid()
    os.environ.clear()
    os.environ.update(order.environment)
    os.environ |= {PARENT: str(os.getpid()), CLAIMS: str(order.claims), LOG: str(order.log)}
    os.chdir(order.root)
    sys.argv = ["sensorium", "repro", *order.names]
    descriptor = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGIO):
        signal.signal(number, _end_command)
    die_with_parent(signal.SIGTERM, parent)
    _end_with(lifeline)


def _end_with(lifeline: Connection) -> None:
    """Ask for SIGIO when the coordinator, which holds the other end, has died."""
    descriptor = lifeline.fileno()
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    if lifeline.poll():
        os.kill(os.getpid(), signal.SIGTERM)


def _leave_with(lifeline: Connection) -> None:
    """Do nothing at all when the coordinator died before this process had its claim.

    The next run does not know of this process then. From here on it does, and waits.
    """
    if lifeline.poll():
        sys.exit(FAILED)


def _end_command(_number: int, _frame: FrameType | None) -> None:
    """Told to end, end the command: DVC then sees a failed stage and leaves in good order.

    This process itself is never interrupted, so that it cannot leave a half-written file of DVC's. The
    command may be about to start, so the signal is repeated until this process has ended.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    signal.signal(signal.SIGTERM, _end_command)
    signal.setitimer(signal.ITIMER_REAL, _INSIST)
