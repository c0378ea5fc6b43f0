"""A queue of groups of trials, from which any number of processes work on one folder of predictions.

The state is on disk alone. A trial is there or not; a process leases the group of trials that it predicts by a
lock on the group's file, which the kernel releases however the process ends. So processes may join and
die at any time: what a dead one had begun, another takes up. Whoever finds everything done publishes.

    <root>/lock               held while somebody joins or publishes
    <root>/<content>/         trials predicted so far
    <root>/<content>.lock     shared by all who work on this content
    <root>/<content>.leases/  one file per group, locked by whoever predicts it
    <root>/<content>.closed   trials are being moved to their final folder, or are there
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sensorium import files
from sensorium.errors import PredictionError
from sensorium.inference.plan import Group, PredictionJob
from sensorium.inference.predictions import PROVENANCE_FILE, publish_predictions

_PAUSE = 0.2
"""Seconds between two checks of groups that others predict."""


class WorkQueue:
    """The groups of one job, seen by one process."""

    def __init__(self, job: PredictionJob, root: Path) -> None:
        """Open a job.

        Args:
            job: what to predict.
            root: place for this folder's unfinished work, outside every stage's outputs.
        """
        self._job = job
        self._root = root
        self._groups = job.groups()
        self._open = set(range(len(self._groups)))
        self.work = root / job.fingerprint
        self._closed_mark = self._beside("closed")

    def _beside(self, ending: str) -> Path:
        return self._root / f"{self.work.name}.{ending}"

    @property
    def left(self) -> int:
        """Groups that were not done at the last `refresh`."""
        return len(self._open)

    @property
    def closed(self) -> bool:
        """Whether somebody publishes, or has published."""
        return self._closed_mark.exists()

    @contextlib.contextmanager
    def joined(self, folder: Path) -> Iterator[None]:
        """Take part in the work; unfinished work on another content is thrown away.

        Raises:
            PredictionError: processes predict the same folder from other weights, recordings or settings.
        """
        with contextlib.ExitStack() as stack:
            with files.waiting_lock(self._root / "lock"):
                self._clear(folder)
                stack.enter_context(self.kept())
                self.work.mkdir(exist_ok=True)
            yield

    def kept(self) -> contextlib.AbstractContextManager[None]:
        """Keep this content from being thrown away."""
        return files.waiting_lock(self._beside("lock"), shared=True)

    def _clear(self, folder: Path) -> None:
        """Remove what nobody works on any more: all of other contents, and marks of this one."""
        for content in sorted({path.name.partition(".")[0] for path in self._root.iterdir()} - {"lock", ""}):
            with (self._root / f"{content}.lock").open("a") as lock:
                if files.try_lock(lock.fileno()):
                    for path in self._root.glob(f"{content}*"):
                        if path != self.work:
                            files.discard(path)
                elif content != self.work.name:
                    raise PredictionError(
                        f"{folder}: another process is predicting it with other weights, recordings, settings or code.",
                        "Wait for it to end, or stop it.",
                    )

    def process(self, predict: Callable[[Group], None], advance: Callable[[int], None]) -> None:
        """Predict groups that nobody else predicts, until all are done or published.

        Args:
            predict: predicts and writes a group.
            advance: called with the number of frames that are done since the last call, by any process.
        """
        advance(self.refresh())
        while self._open and not self.closed:
            granted_any = False
            for number in sorted(self._open):
                with self._lease(number) as granted:
                    if granted:
                        predict(self._groups[number])
                if granted:
                    granted_any = True
                    advance(self.refresh())
            if not granted_any:
                time.sleep(_PAUSE)
                advance(self.refresh())

    @contextlib.contextmanager
    def _lease(self, number: int) -> Iterator[bool]:
        """Whether a group is missing and this process may predict it."""
        leases = self._beside("leases")
        leases.mkdir(exist_ok=True)
        with (leases / str(number)).open("a") as lease:
            yield files.try_lock(lease.fileno()) and not self._is_complete(number) and not self.closed

    def _is_complete(self, number: int) -> bool:
        position, trials = self._groups[number]
        mouse = self._job.assignments[position].store.name
        return all((self.work / mouse / f"{trial}.npy").is_file() for trial in trials)

    def refresh(self) -> int:
        """Check which groups are done; returns the frames of those that were not at the last check."""
        done = {number for number in self._open if self._is_complete(number)}
        self._open -= done
        return sum(self._job.frames(self._groups[number]) for number in done)

    def publish(self, folder: Path, extra: Callable[[], dict[str, object]]) -> bool:
        """Publish, unless another process has.

        Args:
            folder: the final folder; what is there is replaced.
            extra: what to add to the provenance.

        Returns:
            Whether everything is in the final folder; False where work is left, since a process died
            while it published.
        """
        with files.waiting_lock(self._root / "lock"):
            files.tidy(folder)
            if self.closed and self._is_published(folder):
                return True
            self._closed_mark.unlink(missing_ok=True)
            self._open = set(range(len(self._groups)))
            self.refresh()
            if self._open:
                self.work.mkdir(exist_ok=True)
                return False
            provenance = self._job.provenance | extra()
            self._closed_mark.touch()
            publish_predictions(self.work, folder, provenance)
            shutil.rmtree(self._beside("leases"), ignore_errors=True)
        return True

    def _is_published(self, folder: Path) -> bool:
        try:
            found = files.read_json(folder / PROVENANCE_FILE, PredictionError, "")
        except PredictionError:
            return False
        return {name: found.get(name) for name in self._job.provenance} == self._job.provenance
