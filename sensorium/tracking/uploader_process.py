"""The process that uploads the event logs of a project's trainings to MLflow.

One serves all trainings that write to the same store. A training pays neither for MLflow's import nor for
a slow server: the uploader is started first of all, while the training still loads PyTorch, then takes a
low priority, and stays for a while after its last training, since the next one of a pipeline soon follows.
A training may end in any way, by SIGKILL too; what cannot be uploaded within a few seconds stays on disk
for the next uploader or `sensorium sync`.
"""

import contextlib
import fcntl
import functools
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import sensorium
from sensorium.errors import SensoriumError
from sensorium.files import digest_json, try_lock, waiting_lock
from sensorium.paths import Paths
from sensorium.tracking.event_log import FINISHED, UPLOADER, WRITER, EventLog, event_logs
from sensorium.tracking.store import TrackingStore, expected_faults, redact, set_short_timeouts
from sensorium.tracking.timeouts import check_timeouts, idle_timeout, upload_timeout
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
_started: list[subprocess.Popen[bytes]] = []
"""Kept, as Python warns of a process that is forgotten while it runs."""


def start_early(paths: Paths) -> None:
    """Start an uploader where a training is about to begin: in the first of its processes, once there is data.

    Raises:
        TrackingError: a variable is of no use.
    """
    if os.environ.get("RANK", "0") == "0" and paths.folds.exists():
        ensure_running(TrackingStore.of(paths))


def ensure_running(store: TrackingStore) -> None:
    """Start an uploader for the store, unless one is at work.

    It stays as long as the process that started it; others call again once they have written. Where no process
    can be started, events stay on disk.

    Raises:
        TrackingError: a variable is of no use.
    """
    check_timeouts()
    try:
        store.state.mkdir(parents=True, exist_ok=True)
        with _file(store, "lock").open("a") as lock:
            if try_lock(lock.fileno()):
                _start(store, lock.fileno())
    except OSError as fault:
        _warn_once(f"No uploader for MLflow can be started ({fault}); `sensorium sync` uploads what waits on disk.")


@functools.cache
def _warn_once(sentence: str) -> None:
    _log.warning("%s", sentence)


def await_end(state: Path) -> None:
    """Wait until no uploader is at work.

    Args:
        state: folder of the event logs and locks of a project, whose trainings are over.
    """
    for lock in [*state.glob("uploader-*.lock"), *state.glob("courier-*.lock")]:  # as earlier versions name it
        with waiting_lock(lock):
            pass


def _file(store: TrackingStore, ending: str) -> Path:
    """A file of the store's uploader: its log, or the lock that it holds, with its process id."""
    return store.state / f"uploader-{digest_json(store.label)[:8]}.{ending}"


def _start(store: TrackingStore, lock: int) -> None:
    """Start the process in a session of its own, where no signal of the terminal reaches it.

    Args:
        store: where to upload.
        lock: descriptor of the lock, which stays locked for whoever inherits it.
    """
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
    _started.append(process)


class UploadTask:
    """One event log that this process uploads, under its lock."""

    def __init__(self, log: EventLog, store: TrackingStore) -> None:
        self.log, self._store = log, store
        self._lock = contextlib.ExitStack()
        self._uploader: Uploader | None = None
        self._next, self._backoff, self._deadline = 0.0, 0.0, math.inf
        self._succeeded = time.monotonic()

    def acquire(self) -> bool:
        """Lock the log; returns whether no other process holds it."""
        return self._lock.enter_context(self.log.locked(UPLOADER))

    def release(self) -> None:
        """Leave the log to others."""
        self._lock.close()

    def step(self) -> bool:
        """Upload when it is time; returns whether nothing is left to do, or nothing more to try."""
        over = not self.log.is_held(WRITER)
        if not over and self.log.address != self._store.label:
            return True  # it goes on in another store, which has an uploader of its own
        self._deadline = min(self._deadline, time.monotonic() + upload_timeout()) if over else math.inf
        if over:
            close_if_killed(self.log)
        at_once = self._backoff == 0 and self.log.status is not None
        if (at_once or time.monotonic() >= self._next) and not self.log.is_uploaded:
            self._upload()
        if over and self.log.is_uploaded:
            if self.log.status == FINISHED:
                self.log.remove()
            return True
        return time.monotonic() > self._deadline

    def _upload(self) -> None:
        try:
            self._uploader = self._uploader or Uploader(self.log, self._store)
            self._uploader.upload(self._deadline)
        except expected_faults() as fault:
            _log.warning("%s: %s", self.log.name, fault)
            self._back_off()
        except Exception:  # the other trainings' events must arrive all the same
            _log.exception("%s: a fault of Sensorium itself", self.log.name)
            self._back_off()
        else:
            self._backoff, self._deadline = 0.0, math.inf  # the store answers: its time begins anew
            self._succeeded = time.monotonic()
        self._next = time.monotonic() + (self._backoff or _POLL_SECONDS)

    def _back_off(self) -> None:
        self._backoff = min(max(2 * self._backoff, _FIRST_BACKOFF), _LONGEST_BACKOFF)

    @property
    def stuck(self) -> bool:
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
    def stuck(self) -> bool:
        """Whether no log could be uploaded for long."""
        return bool(self._tasks) and all(task.stuck for task in self._tasks.values())

    def find_work(self) -> bool:
        """Take on new logs; returns whether any is open."""
        for log in event_logs(self._store.state):
            if log.name in self._tasks or self._given_up.get(log.name) == log.size:
                continue
            with self._giving_up(log):
                task = UploadTask(log, self._store)
                if not self._is_ours(log):
                    continue
                if task.acquire():
                    self._tasks[log.name] = task
                else:
                    task.release()
        return bool(self._tasks)

    def step(self) -> None:
        """Let each task do what is due."""
        for name, task in list(self._tasks.items()):
            done = True
            with self._giving_up(task.log):
                done = task.step()
                if done and not task.log.is_uploaded:
                    self._given_up[name] = task.log.size
            if done:
                task.release()
                del self._tasks[name]

    @contextlib.contextmanager
    def _giving_up(self, log: EventLog) -> Iterator[None]:
        """Leave a log that is damaged, or that another user wrote, for the sake of the others."""
        try:
            yield
        except (SensoriumError, OSError) as fault:
            _log.warning("%s: %s", log.name, fault)
            self._given_up[log.name] = log.size

    def _is_ours(self, log: EventLog) -> bool:
        """Whether it is written for this store now, or was left by a training that is over."""
        if log.is_held(WRITER):
            return log.address == self._store.label
        return log.address in {"", self._store.label} and not log.is_uploaded


def serve(store: TrackingStore, starter: int, lock: int) -> None:
    """Upload until the starter is gone and nothing was left to do for a while.

    Args:
        store: where to upload.
        starter: id of the process that started this one.
        lock: descriptor of the lock that keeps a second uploader from being started.
    """
    loop, idle_since = UploadLoop(store), time.monotonic()
    while store.state.is_dir() and not loop.stuck:  # it is gone when the project is
        if loop.find_work() or os.getppid() == starter:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= idle_timeout():
            fcntl.flock(lock, fcntl.LOCK_UN)
            # whoever wrote before the lock was free relies on this process, and whoever came later has another one
            if not loop.find_work() or not try_lock(lock):
                return
        loop.step()
        time.sleep(_LOOP_SECONDS)


class _Redacting(logging.Formatter):
    """Keeps the password of the tracking URI out of the log."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def main(root: Path, starter: int, lock: int) -> None:
    """Serve the store that the environment names for a project.

    Args:
        root: the project's root.
        starter: as in `serve`.
        lock: as in `serve`.
    """
    os.set_inheritable(lock, False)
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    set_short_timeouts()
    store = TrackingStore.of(Paths(root))
    os.chdir(store.home)  # the root may be a copy that DVC removes when its experiment is over
    _write_id(lock)
    try:
        with contextlib.suppress(*expected_faults()):  # reported, and tried again, with the first upload
            store.client()  # imports MLflow while the training still loads
        os.nice(_NICENESS)
        serve(store, starter, lock)
    except Exception:
        _log.exception("The uploader ends")
        raise SystemExit(1) from None


def _write_id(lock: int) -> None:
    """Write this process's id for whoever looks into the lock file."""
    with contextlib.suppress(OSError):  # a full disk
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
