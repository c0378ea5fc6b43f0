"""The courier: a process that brings the journals of a project's trainings to MLflow.

One serves all trainings that write to the same store. A training pays neither for MLflow's import nor for
a slow server: the courier is started first of all, while the training still loads PyTorch, then takes a
low priority, and stays for a while after its last training, since the next one of a pipeline soon follows.
A training may end in any way, by SIGKILL too; what cannot be delivered within a few seconds stays on disk
for the next courier or `sensorium sync`.
"""

import contextlib
import fcntl
import functools
import logging
import math
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import sensorium
from sensorium.files import digest_json, try_lock, waiting_lock
from sensorium.paths import Paths
from sensorium.tracking.delivery import Courier, close_if_killed, expected_faults
from sensorium.tracking.journal import Journal, journals
from sensorium.tracking.store import Store, be_brief, patience, redacted, seconds_of

LINGER_VARIABLE = "SENSORIUM_COURIER_LINGER"
"""Seconds that a courier stays when nothing is left to deliver."""
_LINGER_SECONDS = 20.0

_LOOK_SECONDS = 0.25
_POLL_SECONDS = 5.0
"""Pause between two deliveries of a journal: what gathers meanwhile costs MLflow one call, not one each."""

_RETRY_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_NICENESS = 10
"""A tenth of a busy core at least, and all that a training leaves."""

_STUCK_SECONDS = 300.0
"""A courier that achieves nothing for so long leaves: the next one has the environment of a training of today."""

_FIRST_FREE = 3
"""Descriptor after the standard streams."""

_log = logging.getLogger(__name__)


def linger() -> float:
    """Seconds that a courier stays when nothing is left to deliver.

    Raises:
        TrackingError: the variable is not a number of seconds.
    """
    return seconds_of(LINGER_VARIABLE, _LINGER_SECONDS)


def start_early(paths: Paths) -> None:
    """Start a courier where a training is about to begin: in the first of its processes, once there is data.

    Raises:
        TrackingError: a variable is of no use.
    """
    if os.environ.get("RANK", "0") == "0" and paths.folds.exists():
        ensure_running(Store.of(paths))


def ensure_running(store: Store, *, wait: bool = True) -> None:
    """Start a courier for the store, unless one is at work.

    It stays as long as the process that started it; others call again once they have written. Where no process
    can be started, events stay on disk.

    Args:
        store: where to deliver.
        wait: for another process that is about to start one, or a courier that is about to leave.

    Raises:
        TrackingError: a variable is of no use.
    """
    linger(), patience()  # refused here, not in the courier's log
    try:
        _ensure_running(store, wait)
    except OSError as fault:
        _tell_once(f"No courier for MLflow can be started ({fault}); `sensorium sync` delivers what waits on disk.")


@functools.cache
def _tell_once(sentence: str) -> None:
    _log.warning("%s", sentence)


def _ensure_running(store: Store, wait: bool) -> None:
    store.state.mkdir(parents=True, exist_ok=True)
    with _door(store).open("a") as door, _presence(store).open("a") as presence:
        if wait:
            fcntl.flock(door, fcntl.LOCK_EX)
        elif not try_lock(door.fileno()):
            return
        if try_lock(presence.fileno()):
            _start(store, presence.fileno())  # the lock stays with the file that the courier inherits


def await_departure(state: Path) -> None:
    """Wait until no courier is at work.

    Args:
        state: folder of the journals and locks of a project, whose trainings are over.
    """
    for presence in state.glob("courier-*.lock"):
        with waiting_lock(presence):
            pass


def _name(store: Store) -> str:
    return f"courier-{digest_json(store.label)[:8]}"


def _door(store: Store) -> Path:
    """Lock of whoever starts a courier, and of the courier that is about to leave."""
    return store.state / f"{_name(store)}.door"


def _presence(store: Store) -> Path:
    """Lock that the courier holds while it lives; it holds its process id."""
    return store.state / f"{_name(store)}.lock"


def _start(store: Store, presence: int) -> None:
    """Start the process in a session of its own, where no signal of the terminal reaches it."""
    code = Path(sensorium.__file__).parents[1]
    searched = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    log = str(store.state / f"{_name(store)}.log")
    inherited = fcntl.fcntl(presence, fcntl.F_DUPFD, _FIRST_FREE)
    try:
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "sensorium.tracking", str(store.root), str(os.getpid()), str(inherited)],
            {**os.environ, "PYTHONPATH": searched},
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
    finally:
        os.close(inherited)


class Errand:
    """One journal that the courier has taken on; nobody else delivers it meanwhile."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self.journal, self._store = journal, store
        self._held = ExitStack()
        self._courier = Courier(journal, store)
        self._due, self._pause, self._deadline = 0.0, 0.0, math.inf
        self._succeeded = time.monotonic()

    def begin(self) -> bool:
        """Claim the journal; returns whether it is free."""
        return self._held.enter_context(self.journal.claimed("courier"))

    def go(self) -> bool:
        """Deliver when it is time; returns whether nothing is left to do, or nothing more to try."""
        over = not self.journal.is_written
        if not over and self.journal.address != self._store.label:
            return True  # it goes on in another store, whose courier will see to it
        self._deadline = min(self._deadline, time.monotonic() + patience()) if over else math.inf
        if over:
            close_if_killed(self.journal)
        hurry = self._pause == 0 and self.journal.is_closed
        if (hurry or time.monotonic() >= self._due) and self.journal.waits:
            self._deliver()
        if over and not self.journal.waits:
            if self.journal.is_finished:
                self.journal.remove()
            return True
        return time.monotonic() > self._deadline

    def _deliver(self) -> None:
        try:
            self._courier.deliver(self._deadline)
        except Exception as fault:  # whatever the server does, the training goes on
            _tell(self.journal.folder.name, fault)
            self._pause = min(max(2 * self._pause, _RETRY_SECONDS), _LONGEST_PAUSE_SECONDS)
        else:
            self._pause, self._deadline = 0.0, math.inf  # the store answers: patience begins anew
            self._succeeded = time.monotonic()
        self._due = time.monotonic() + (self._pause or _POLL_SECONDS)

    @property
    def stuck(self) -> bool:
        """Whether nothing could be delivered for long."""
        return self._pause > 0 and time.monotonic() - self._succeeded > _STUCK_SECONDS

    def end(self) -> None:
        """Leave the journal to others."""
        self._held.close()


class Round:
    """All journals that one courier looks after."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._errands: dict[str, Errand] = {}
        self._given_up: set[str] = set()
        self._damaged: set[str] = set()

    @property
    def stuck(self) -> bool:
        """Whether no journal could be delivered for long."""
        return bool(self._errands) and all(errand.stuck for errand in self._errands.values())

    def look(self) -> bool:
        """Take on new journals; returns whether any is open."""
        for journal in journals(self._store.state):
            name = journal.folder.name
            if name in self._errands or name in self._damaged:
                continue
            try:
                if self._concerns_us(journal):
                    self._take_on(journal)
            except Exception as fault:
                self._leave(name, fault)
        return bool(self._errands)

    def go(self) -> None:
        """See to each journal."""
        for name, errand in list(self._errands.items()):
            try:
                done, waits = errand.go(), errand.journal.waits
            except Exception as fault:
                self._leave(name, fault)
                done = waits = True
            if done:
                if waits:
                    self._given_up.add(name)
                errand.end()
                del self._errands[name]

    def _leave(self, name: str, fault: Exception) -> None:
        """Leave a damaged journal, or one that another user wrote, for the sake of the others."""
        _tell(name, fault)
        self._damaged.add(name)

    def _concerns_us(self, journal: Journal) -> bool:
        """Whether it is written for this store now, or was left by a training that is over."""
        if journal.is_written:
            self._given_up.discard(journal.folder.name)
            return journal.address == self._store.label
        ours = journal.address in {"", self._store.label}
        return ours and journal.waits and journal.folder.name not in self._given_up

    def _take_on(self, journal: Journal) -> None:
        errand = Errand(journal, self._store)
        if errand.begin():
            self._errands[journal.folder.name] = errand
        else:
            errand.end()


def _tell(name: str, fault: Exception) -> None:
    """Note a fault in the log; one of the code with its traceback, or it would look like one of the server."""
    _log.warning("%s: %s", name, fault, exc_info=None if isinstance(fault, expected_faults()) else fault)


def serve(store: Store, starter: int, presence: int) -> None:
    """Go round until the starter is gone and nothing was left to do for a while.

    Args:
        store: where to deliver.
        starter: id of the process that started this one.
        presence: descriptor of the lock that shows that this one lives.
    """
    round_, idle_since = Round(store), time.monotonic()
    while store.state.is_dir() and not round_.stuck:  # it is gone when the project is
        if round_.look() or os.getppid() == starter:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= linger():
            with waiting_lock(_door(store)):
                if not round_.look():  # whoever comes now finds nobody and starts another one
                    os.close(presence)
                    return
        round_.go()
        time.sleep(_LOOK_SECONDS)


class _Redacting(logging.Formatter):
    """Keeps the password of the tracking URI out of the log."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def main(root: Path, starter: int, presence: int) -> None:
    """Serve the store that the environment names for a project.

    Args:
        root: the project's root.
        starter: as in `serve`.
        presence: as in `serve`.
    """
    os.closerange(_FIRST_FREE, presence)  # a lock that the starter's own starter holds, say
    os.closerange(presence + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(presence, False)
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    be_brief()
    store = Store.of(Paths(root))
    os.chdir(store.home)  # the root may be a copy that DVC removes when its experiment is over
    _tell_id(presence)
    _get_ready(store)
    os.nice(_NICENESS)
    try:
        serve(store, starter, presence)
    except Exception:
        _log.exception("The courier ends")
        raise SystemExit(1) from None


def _tell_id(presence: int) -> None:
    """Write this process's id for whoever looks into the lock file."""
    with contextlib.suppress(OSError):  # a full disk
        os.truncate(presence, 0)
        os.write(presence, f"{os.getpid()}\n".encode())


def _get_ready(store: Store) -> None:
    """Import MLflow and open the store while the training still loads."""
    try:
        store.client()
    except Exception as fault:  # told again, and tried again, with the first delivery
        _tell(store.label, fault)
