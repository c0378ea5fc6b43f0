"""The courier: a process that brings the journals of a project's trainings to MLflow.

One serves all trainings that write to the same store. A training pays neither for MLflow's import nor for
a slow server: the courier is started first of all, while the training still loads PyTorch, then takes a
low priority, and stays for a while after its last training, since the next one of a pipeline soon follows.
A training may end in any way, by SIGKILL too; what cannot be delivered within a few seconds stays on disk
for the next courier or `sensorium sync`.
"""

import fcntl
import logging
import math
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import sensorium
from sensorium.files import digest_json, waiting_lock
from sensorium.paths import Paths
from sensorium.tracking.delivery import Courier, close_if_killed
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

_log = logging.getLogger(__name__)


def ensure_running(store: Store) -> None:
    """Start a courier for the store, unless one is at work.

    Whoever calls this stays served as long as it lives; a journal that it writes by then is seen.
    """
    with waiting_lock(_door(store)), _presence(store).open("a") as presence:
        if _is_held(presence.fileno()):
            return
        _start(store, presence.fileno())  # the lock stays with the file that the courier inherits


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


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
    os.set_inheritable(presence, True)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "sensorium.tracking", str(store.root), str(os.getpid()), str(presence)],
        {**os.environ, "PYTHONPATH": searched},
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


class Errand:
    """One journal that the courier has taken on; nobody else delivers it meanwhile."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self.journal, self._store = journal, store
        self._held = ExitStack()
        self._courier = Courier(journal, store)
        self._due, self._pause, self._deadline = 0.0, 0.0, math.inf

    def begin(self) -> bool:
        """Claim the journal; returns whether it is free."""
        return self._held.enter_context(self.journal.claimed("courier"))

    def go(self) -> bool:
        """Deliver when it is time; returns whether nothing is left to do, or nothing more to try."""
        over = not self.journal.is_written
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
            _log.warning("%s: %s", self.journal.folder.name, redacted(str(fault)))
            self._pause = min(max(2 * self._pause, _RETRY_SECONDS), _LONGEST_PAUSE_SECONDS)
        else:
            self._pause = 0.0
        self._due = time.monotonic() + (self._pause or _POLL_SECONDS)

    def end(self) -> None:
        """Leave the journal to others."""
        self._held.close()


class Round:
    """All journals that one courier looks after."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._errands: dict[str, Errand] = {}
        self._given_up: set[str] = set()

    def look(self) -> bool:
        """Take on new journals; returns whether any is open."""
        for journal in journals(self._store.state):
            if journal.folder.name not in self._errands and self._concerns_us(journal):
                self._take_on(journal)
        return bool(self._errands)

    def go(self) -> None:
        """See to each journal."""
        for name, errand in list(self._errands.items()):
            if errand.go():
                if errand.journal.waits:
                    self._given_up.add(name)
                errand.end()
                del self._errands[name]

    def _concerns_us(self, journal: Journal) -> bool:
        """Whether it is written for this store now, or was left by a training that is over."""
        if journal.is_written:
            self._given_up.discard(journal.folder.name)
            return journal.address == self._store.label
        return journal.waits and journal.folder.name not in self._given_up

    def _take_on(self, journal: Journal) -> None:
        errand = Errand(journal, self._store)
        if errand.begin():
            self._errands[journal.folder.name] = errand
        else:
            errand.end()


def serve(store: Store, starter: int, presence: int) -> None:
    """Go round until the starter is gone and nothing was left to do for a while.

    Args:
        store: where to deliver.
        starter: id of the process that started this one.
        presence: descriptor of the lock that shows that this one lives.
    """
    round_, idle_since = Round(store), time.monotonic()
    linger = seconds_of(LINGER_VARIABLE, _LINGER_SECONDS)
    while store.state.is_dir():  # it is gone when the project is
        if round_.look() or os.getppid() == starter:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= linger:
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
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    be_brief()
    store = Store.of(Paths(root))
    os.chdir(store.home)  # the root may be a copy that DVC removes when its experiment is over
    os.truncate(presence, 0)
    os.write(presence, f"{os.getpid()}\n".encode())
    _get_ready(store)
    os.nice(_NICENESS)
    serve(store, starter, presence)


def _get_ready(store: Store) -> None:
    """Import MLflow and open the store while the training still loads."""
    try:
        store.client()
    except Exception as fault:  # told again, and tried again, with the first delivery
        _log.warning("%s", fault)
