"""Who predicts what: any number of processes share the work on one folder of predictions.

The state is on disk alone. A trial is there or not; a process that works on a group of trials holds a
lock on the group's file, which the kernel releases however the process ends. So processes may join and
die at any time: what a dead one had begun, another takes up. Whoever finds everything done publishes.

    <root>/lock               held while somebody enters or publishes
    <root>/<content>/         trials predicted so far
    <root>/<content>.lock     shared by all who work on this content
    <root>/<content>.claims/  a file a group, locked by whoever predicts it
    <root>/<content>.closed   trials are being moved to their final folder, or are there
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sensorium import files
from sensorium.errors import PredictionError, SensoriumError
from sensorium.inference.job import Job
from sensorium.inference.predictions import PROVENANCE_FILE, PredictionWriter

Group = tuple[int, list[int]]
"""Position of an assignment and the trials to predict together."""

_PAUSE = 0.2
"""Seconds between two looks at groups that others predict."""


class _TakenError(SensoriumError):
    """Another process holds the claim."""


class Board:
    """The groups of one job, seen by one process."""

    def __init__(self, job: Job, root: Path) -> None:
        """Look at a job.

        Args:
            job: what to predict.
            root: place for this folder's unfinished work, outside every stage's outputs.
        """
        self._job = job
        self._root = root
        self._groups = job.groups()
        self._open = set(range(len(self._groups)))
        self.work = root / job.fingerprint

    @property
    def left(self) -> int:
        """Groups that were not done at the last look."""
        return len(self._open)

    @contextlib.contextmanager
    def entered(self, folder: Path) -> Iterator[None]:
        """Take part in the work; unfinished work on another content is thrown away.

        Raises:
            PredictionError: processes predict the same folder from other weights, recordings or settings.
        """
        busy = PredictionError(
            f"{folder}: another process is predicting it with other weights, recordings, settings or code.",
            "Wait for it to end, or stop it.",
        )
        with contextlib.ExitStack() as stack:
            with files.waiting_lock(self._root / "lock"):
                self._clear(busy)
                stack.enter_context(self.held())
                self.work.mkdir(exist_ok=True)
            yield

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keep this content from being thrown away."""
        return files.waiting_lock(self._beside("lock"), shared=True)

    def _beside(self, ending: str) -> Path:
        return self._root / f"{self.work.name}.{ending}"

    def _clear(self, busy: PredictionError) -> None:
        """Remove what nobody works on any more: all of other contents, and marks of this one."""
        contents = {path.name.partition(".")[0] for path in self._root.iterdir()} - {"lock", ""}
        for content in sorted(contents):
            own = content == self.work.name
            taken = _TakenError("") if own else busy
            with contextlib.suppress(_TakenError), files.exclusive_lock(self._root / f"{content}.lock", taken):
                for path in self._root.glob(f"{content}*"):
                    if not (own and path == self.work):
                        _remove(path)

    def work_through(self, predict: Callable[[Group], int], advance: Callable[[int], None]) -> None:
        """Predict groups that nobody else predicts, until all are done or published.

        Args:
            predict: predicts and writes a group.
            advance: told how many more frames are done, by whomever.
        """
        advance(self.refresh())
        while self._open and not self.closed:
            taken = 0
            for number in sorted(self._open):
                with self._claimed(number) as mine:
                    if mine:
                        predict(self._groups[number])
                        taken += 1
                if mine:
                    advance(self.refresh())
            if not taken:
                time.sleep(_PAUSE)
                advance(self.refresh())

    @contextlib.contextmanager
    def _claimed(self, number: int) -> Iterator[bool]:
        """Whether a group is missing and this process may predict it."""
        claim = self._beside("claims") / str(number)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.exclusive_lock(claim, _TakenError("")))
            except _TakenError:
                yield False
            else:
                yield not self._complete(number) and not self.closed

    @property
    def closed(self) -> bool:
        """Whether somebody publishes, or has published."""
        return self._closed_mark.exists()

    @property
    def _closed_mark(self) -> Path:
        return self._beside("closed")

    def _complete(self, number: int) -> bool:
        position, trials = self._groups[number]
        mouse = self._job.assignments[position].store.name
        return all((self.work / mouse / f"{trial}.npy").is_file() for trial in trials)

    def refresh(self) -> int:
        """Look which groups are done; returns the frames of those that were not at the last look."""
        found = {mouse: _names(self.work / mouse) for mouse in _names(self.work)}
        frames = 0
        for number in sorted(self._open):
            position, trials = self._groups[number]
            store = self._job.assignments[position].store
            if {f"{trial}.npy" for trial in trials} <= found.get(store.name, set()):
                self._open.remove(number)
                frames += int(store.lengths[trials].sum())
        return frames

    def publish(self, folder: Path, extra: Callable[[], dict[str, object]]) -> bool:
        """Publish, unless another process has.

        Args:
            folder: the final folder; what stands there is replaced.
            extra: what to add to the provenance.

        Returns:
            Whether everything stands in the final folder; False where work is left, since a process died
            while it published.
        """
        with files.waiting_lock(self._root / "lock"):
            files.tidy(folder)
            if self.closed and self._stands_in(folder):
                return True
            self._closed_mark.unlink(missing_ok=True)
            self._open = set(range(len(self._groups)))
            self.refresh()
            if self._open:
                self.work.mkdir(exist_ok=True)
                return False
            provenance = self._job.provenance | extra()
            self._closed_mark.touch()
            PredictionWriter(self.work).publish(folder, provenance)
            shutil.rmtree(self._beside("claims"), ignore_errors=True)
        return True

    def _stands_in(self, folder: Path) -> bool:
        """Whether a folder holds this content."""
        try:
            found = files.read_json(folder / PROVENANCE_FILE, PredictionError, "")
        except PredictionError:
            return False
        return {name: found.get(name) for name in self._job.provenance} == self._job.provenance


def _names(folder: Path) -> set[str]:
    """What lies in a folder, which may vanish at any moment."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
