"""One run: starts what the scheduler allows, watches it, and leaves nothing behind."""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from sensorium.errors import PipelineError
from sensorium.repro import process
from sensorium.repro.children import Child, Nursery, wait_for_any
from sensorium.repro.gpus import lease
from sensorium.repro.graph import Plan
from sensorium.repro.live import View, clock
from sensorium.repro.scheduler import Scheduler, State, Task

_REFRESH = 0.25
"""Longest pause, in seconds, between two looks at the children."""

_PUSHES = 2
"""Uploads at once; one alone seldom fills a line, many would starve the stages of memory."""

_TAIL = 15
"""Lines of a failed stage's log that are shown."""


@dataclass(frozen=True)
class Folder:
    """Where a run keeps its state, under the project's .sensorium."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by the coordinator."""
        return self.path / "lock"

    @property
    def claims(self) -> Path:
        """Shared by all processes of the run."""
        return self.path / "claims"

    @property
    def journal(self) -> Path:
        """Order of the lock files' entries, while a run is unfinished."""
        return self.path / "journal.json"

    def log(self, name: str) -> Path:
        """Log of one stage's last run."""
        return self.path / "logs" / (name.replace("/", "_").replace(":", "_") + ".log")


@dataclass
class Run:
    """The moving parts of one run.

    Args:
        root: folder of the DVC repository.
        plan: what to run.
        scheduler: in which order.
        view: shows it.
        folder: keeps its state.
        environment: environment of every stage.
        push: send the outputs of finished stages to a remote.
        remote: name of the remote; None for the default one.
    """

    root: Path
    plan: Plan
    scheduler: Scheduler
    view: View
    folder: Folder
    environment: Mapping[str, str]
    push: bool = False
    remote: str | None = None
    interrupts: int = field(init=False, default=0)
    unpushed: list[str] = field(init=False, default_factory=list)
    _nursery: Nursery = field(init=False, default_factory=Nursery)
    _stages: dict[str, Child] = field(init=False, default_factory=dict)
    _pushes: dict[tuple[str, ...], Child] = field(init=False, default_factory=dict)
    _queue: deque[tuple[str, ...]] = field(init=False, default_factory=deque)

    def execute(self) -> None:
        """Run until nothing is left to do.

        Raises:
            KeyboardInterrupt: the run was told to end, and everything it had started has ended.
            PipelineError: stages failed, or were not pushed.
        """
        self.folder.log("x").parent.mkdir(parents=True, exist_ok=True)
        for name in self.plan.unchanged:
            self.scheduler.unchanged(name)
        if self.push and self.plan.unchanged:
            self._queue.append(tuple(sorted(self.plan.unchanged)))
        handled = 0
        with self._interruptible(), self.view:
            while not self.scheduler.finished or self._queue or self._pushes:
                if self.interrupts > handled:
                    handled = self.interrupts
                    self._interrupt(kill=handled > 1)
                self._step()
        if self.interrupts:
            raise KeyboardInterrupt
        self._judge()

    def _step(self) -> None:
        for task in self.scheduler.start():
            self._stages[task.name] = self._start(task)
        while self._queue and len(self._pushes) < _PUSHES:
            names = self._queue.popleft()
            self._pushes[names] = self._nursery.start(process.push, self._order(names, {}), self.remote)
        started = {name: child.started for name, child in self._stages.items()}
        self.view.show(self.scheduler.tasks.values(), started)
        wait_for_any([*self._stages.values(), *self._pushes.values()], _REFRESH)
        for name, child in list(self._stages.items()):
            if (code := child.poll()) is not None:
                del self._stages[name]
                self._finish(name, code, time.monotonic() - child.started)
        for names, child in list(self._pushes.items()):
            if (code := child.poll()) is not None:
                del self._pushes[names]
                if code != process.CHANGED:
                    self.unpushed += names

    def _start(self, task: Task) -> Child:
        if task.attempts == 1:
            self.folder.log(task.name).unlink(missing_ok=True)
        self.view.say(f"{task.name}: started{f' on GPU {task.gpu}' if task.gpu else ''}")
        return self._nursery.start(process.run, self._order((task.name,), lease(task.gpu)))

    def _order(self, names: tuple[str, ...], extra: Mapping[str, str]) -> process.Order:
        log = self.folder.log(names[0])
        environment = {**self.environment, **extra}
        return process.Order(self.root, names, environment, log, self.folder.claims, self.plan.locks)

    def _finish(self, name: str, code: int, seconds: float) -> None:
        succeeded = code in (process.CHANGED, process.UNCHANGED)
        state = self.scheduler.finish(name, succeeded, changed=code == process.CHANGED)
        if succeeded:
            self.view.say(f"{name}: {state.value} in {clock(seconds)}")
            if self.push and not self.interrupts:
                self._queue.append((name,))
        elif self.interrupts:
            self.view.say(f"{name}: interrupted after {clock(seconds)}")
        elif state is State.WAITING:
            attempts = self.scheduler.tasks[name].attempts
            total = self.scheduler.retries + 1
            self.view.say(f"{name}: {_reason(code)} after {clock(seconds)}; attempt {attempts + 1} of {total} follows")
        else:
            self.view.say(f"{name}: {_reason(code)} after {clock(seconds)}\n{_tail(self.folder.log(name))}")

    def _interrupt(self, kill: bool) -> None:
        self.scheduler.stop()
        self._queue.clear()
        if not kill:
            self.view.say("Ending the running stages, which may save their state; Ctrl-C again kills them.")
        for child in [*self._stages.values(), *self._pushes.values()]:
            if kill:
                child.kill()
            else:
                child.end()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Count Ctrl-C and SIGTERM instead of dying from them."""

        def note(_number: int, _frame: FrameType | None) -> None:
            self.interrupts += 1

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _judge(self) -> None:
        failed = [task.name for task in self.scheduler.tasks.values() if task.state is State.FAILED]
        if failed:
            total, skipped = len(self.scheduler.tasks), self.scheduler.count(State.SKIPPED)
            raise PipelineError(
                f"{len(failed)} of {total} stages failed, {skipped} were not run: {', '.join(failed)}.",
                f"Logs: {', '.join(str(self.folder.log(name)) for name in failed)}. Run again to go on from there.",
            )
        if self.unpushed:
            raise PipelineError(
                f"All stages are done, but some were not pushed: {', '.join(self.unpushed)}.",
                f"See {self.folder.log(self.unpushed[0])}, then: dvc push {' '.join(self.unpushed)}",
            )


def _reason(code: int) -> str:
    if code >= 0:
        return "failed"
    return f"killed by {signal.Signals(-code).name}"


def _tail(log: Path) -> str:
    if not log.exists():
        return "  (it wrote no log)"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    return "\n".join(f"  | {line}" for line in lines)
