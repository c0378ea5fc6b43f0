"""The process that uploads the event logs of a project's trainings to MLflow.

One serves all trainings that write to the same store. A training pays neither for MLflow's import nor for
a slow server: the uploader is started with the run, takes a low priority, and stays for a while after its
last training, since the next one of a pipeline soon follows.
A training may end in any way, by SIGKILL too; what cannot be uploaded within a few seconds stays on disk
for the next uploader or `sensorium sync`.
"""

import contextlib
import fcntl
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import sensorium
from sensorium.errors import SensoriumError
from sensorium.files import digest_json, try_lock, waiting_lock
from sensorium.paths import Paths
from sensorium.secrets import redact
from sensorium.tracking.event_log import FINISHED, UPLOADER, WRITER, EventLog, event_logs
from sensorium.tracking.store import TrackingStore, expected_faults, set_short_timeouts
from sensorium.tracking.timeouts import idle_timeout, upload_timeout, warn_once
from sensorium.tracking.uploader import Uploader, close_if_killed

_LOOP_SECONDS = 0.25
_POLL_SECONDS = 5.0
"""Pause between two uploads of a log: what gathers meanwhile costs MLflow one call, not one each."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 1.0, 30.0
_NICENESS = 10
"""A tenth of a busy core at least, and all that a training leaves."""
_STUCK_SECONDS = 300.0
"""An uploader that achieves nothing for so long ends: the next one has the environment of a training of today."""

_log = logging.getLogger(__name__)


def ensure_running(store: TrackingStore) -> None:
    """Start an uploader for the store, unless one is at work.

    It stays as long as the process that started it; others call again once they have written. Where no process
    can be started, events stay on disk.
    """
    try:
        store.state.mkdir(parents=True, exist_ok=True)
        with _file(store, "lock").open("a") as lock:
            if try_lock(lock.fileno()):
                _start(store, lock.fileno())
    except OSError as fault:
        warn_once(f"No uploader for MLflow can be started ({fault}); `sensorium sync` uploads what waits on disk.")


def await_end(state: Path) -> None:
    """Wait until no uploader is at work for a project, whose trainings are over and whose state folder is `state`."""
    for lock in [*state.glob("uploader-*.lock"), *state.glob("courier-*.lock")]:  # as earlier versions name it
        with waiting_lock(lock):
            pass


def _file(store: TrackingStore, ending: str) -> Path:
    """A file of the store's uploader: its log, or the lock that it holds, with its process id."""
    return store.state / f"uploader-{digest_json(store.label)[:8]}.{ending}"


def _start(store: TrackingStore, lock: int) -> None:
    """Start the process, which inherits the lock, in a session where no signal of the terminal reaches it."""
    code = Path(sensorium.__file__).parents[1]
    searched = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    arguments = [str(store.root), str(os.getpid()), str(lock)]
    with _file(store, "log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "sensorium.tracking", *arguments],
            env={**os.environ, "PYTHONPATH": searched},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock],
        )
    process.returncode = 0  # it outlives this process on purpose, which Python would warn of


class UploadTask:
    """One event log, which this process uploads while it holds its lock."""

    def __init__(self, log: EventLog, store: TrackingStore) -> None:
        self.log, self._store = log, store
        self.lock, self.is_locked = contextlib.ExitStack(), False
        self._uploader: Uploader | None = None
        self._next, self._backoff, self._deadline = 0.0, 0.0, math.inf
        self._succeeded = time.monotonic()

    def step(self) -> bool:
        """Upload when it is time; returns whether something is left to do or to try again."""
        over = not self.log.is_held(WRITER)
        if not self._acquire(over):
            return False
        self._deadline = min(self._deadline, time.monotonic() + upload_timeout()) if over else math.inf
        if over:
            close_if_killed(self.log)
        at_once = self._backoff == 0 and self.log.status is not None
        if (at_once or time.monotonic() >= self._next) and not self.log.is_uploaded:
            self._upload()
        if over and self.log.is_uploaded:
            if self.log.status == FINISHED:
                self.log.remove()
            return False
        return time.monotonic() <= self._deadline

    def _acquire(self, over: bool) -> bool:
        """Lock the log where it is written for this store now, or was left by a training that is over."""
        if self.log.address != self._store.label and not (over and self.log.address == ""):
            return False
        if not self.is_locked and not (over and self.log.is_uploaded):
            self.is_locked = self.lock.enter_context(self.log.locked(UPLOADER))
        return self.is_locked

    def _upload(self) -> None:
        try:
            self._uploader = self._uploader or Uploader(self.log, self._store)
            self._uploader.upload(self._deadline)
        except Exception as fault:  # the training goes on, and so do the others
            if isinstance(fault, expected_faults()):
                _log.warning("%s: %s", self.log.name, fault)
            else:
                _log.exception("%s: a fault of Sensorium itself", self.log.name)
            self._backoff = min(max(2 * self._backoff, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        else:
            self._backoff, self._deadline = 0.0, math.inf  # the store answers: its time begins anew
            self._succeeded = time.monotonic()
        self._next = time.monotonic() + (self._backoff or _POLL_SECONDS)

    @property
    def is_stuck(self) -> bool:
        """Whether nothing could be uploaded for long."""
        return self._backoff > 0 and time.monotonic() - self._succeeded > _STUCK_SECONDS


class UploadLoop:
    """All event logs that one process uploads."""

    def __init__(self, store: TrackingStore) -> None:
        self._store = store
        self._tasks: dict[str, UploadTask] = {}
        self._given_up: dict[str, int] = {}
        """Size of each log that was given up; one that has grown since belongs to a training that goes on."""

    @property
    def is_stuck(self) -> bool:
        """Whether no log could be uploaded for long."""
        return bool(self._tasks) and all(task.is_stuck for task in self._tasks.values())

    def step(self) -> bool:
        """Do what is due for each log; returns whether any is open."""
        new = {log.name: UploadTask(log, self._store) for log in event_logs(self._store.state)}
        for name, task in (new | self._tasks).items():
            if self._given_up.get(name) != task.log.size and self._step(task):
                self._tasks[name] = task
            else:
                task.lock.close()
                self._tasks.pop(name, None)
        return bool(self._tasks)

    def _step(self, task: UploadTask) -> bool:
        """Do what is due for a log; one that is damaged, or that another user wrote, is left for the others' sake."""
        try:
            if task.step():
                return True
            give_up = task.is_locked and not task.log.is_uploaded
        except (SensoriumError, OSError) as fault:
            _log.warning("%s: %s", task.log.name, fault)
            give_up = True
        if give_up:
            self._given_up[task.log.name] = task.log.size
        return False


def serve(store: TrackingStore, starter: int, lock: int) -> None:
    """Upload until the starter is gone and nothing was left to do for a while; see `main`."""
    loop, idle_since = UploadLoop(store), time.monotonic()
    while store.state.is_dir() and not loop.is_stuck:  # it is gone when the project is
        if loop.step() or os.getppid() == starter:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= idle_timeout():
            fcntl.flock(lock, fcntl.LOCK_UN)
            # whoever wrote before the lock was free relies on this process, and whoever comes later has another one
            if not loop.step() or not try_lock(lock):
                return
        time.sleep(_LOOP_SECONDS)


class _Redacting(logging.Formatter):
    """Keeps credentials of the environment and of URLs out of the log."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def main(root: Path, starter: int, lock: int) -> None:
    """Serve the store that the environment names for a project.

    Args:
        root: the project's root.
        starter: id of the process that started this one.
        lock: descriptor of the lock that keeps a second uploader from being started.
    """
    os.set_inheritable(lock, False)
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    set_short_timeouts()
    store = TrackingStore.of(Paths(root))
    os.chdir(store.home)  # the root may be a copy that DVC removes when its experiment is over
    with contextlib.suppress(OSError):  # a full disk: the lock file has no process id then
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    try:
        with contextlib.suppress(*expected_faults()):  # reported, and tried again, with the first upload
            store.client()  # imports MLflow while the training still loads
        os.nice(_NICENESS)
        serve(store, starter, lock)
    except Exception:
        _log.exception("The uploader ends")
        raise SystemExit(1) from None
