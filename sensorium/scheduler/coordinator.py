"""One run: starts what the scheduler allows, watches it, and leaves no process behind."""

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sensorium.errors import PipelineError
from sensorium.files import exclusive_lock, read_json, try_lock, write_json
from sensorium.scheduler.display import Display, duration
from sensorium.scheduler.executors import lease
from sensorium.scheduler.graph import StageGraph
from sensorium.scheduler.local import LOCK_VARIABLE, LOG_VARIABLE
from sensorium.scheduler.processes import CHANGED, GRACE_SECONDS, UNCHANGED, StageProcess, StopSignals
from sensorium.scheduler.tasks import Scheduler, State, Task
from sensorium.tracking.project_run import RUN_VARIABLES
from sensorium.tracking.timeouts import UPLOAD_TIMEOUT, upload_timeout

_TICK = 0.1
_PUSHES = 2
"""Uploads at once; one alone seldom fills a line, many would starve the stages of memory."""
_TAIL = 15
"""Lines of a failed stage's log that are shown."""


def command_environment(executor: str) -> dict[str, str]:
    """This process's environment, with the project's programs and without the MLflow run of whoever called."""
    kept = {name: value for name, value in os.environ.items() if name not in RUN_VARIABLES}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    if executor != "local":  # a cluster ends what a job leaves behind, the uploader as well
        kept[UPLOAD_TIMEOUT] = f"{upload_timeout():g}"
    return kept


@contextlib.contextmanager
def lock_project(folder: Path) -> Iterator[int]:
    """Hold a project for one run; yields the descriptor of a shared lock, which the processes of the run inherit.

    Raises:
        PipelineError: another run is at work, or processes of a killed one do not end.
    """
    lock, stages = folder / "lock", folder / "stages.lock"
    busy = PipelineError("Another `sensorium run` is at work in this project.", f"Wait for it, or end it: fuser {lock}")
    with exclusive_lock(lock, busy), stages.open("a") as stream:
        if not try_lock(stream.fileno(), 2 * GRACE_SECONDS):
            raise PipelineError(
                "Stages of an earlier run that was killed are still at work.",
                f"Wait for them, or see which processes they are: fuser {stages}",
            )
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield stream.fileno()


@dataclass
class Run:
    """One run of a graph."""

    root: Path
    """Folder of the DVC repository."""
    graph: StageGraph
    scheduler: Scheduler
    display: Display
    folder: Path
    """Keeps the state of the run."""
    lock: int
    """Descriptor that `lock_project` has yielded."""
    environment: Mapping[str, str]
    push: bool = False
    """Send the outputs of finished stages to a remote."""
    remote: str | None = None
    """Its name; None for the default one."""
    _stages: dict[str, StageProcess] = field(init=False, default_factory=dict)
    _pushes: dict[tuple[str, ...], StageProcess] = field(init=False, default_factory=dict)
    _to_push: list[tuple[str, ...]] = field(init=False, default_factory=list)
    _unpushed: list[str] = field(init=False, default_factory=list)
    _signals: StopSignals = field(init=False, default_factory=StopSignals)

    def execute(self) -> None:
        """Run until nothing is left to do.

        Raises:
            KeyboardInterrupt: a stop was requested, and everything that was started has ended.
            PipelineError: stages failed, or were not pushed.
        """
        self._log("x").parent.mkdir(parents=True, exist_ok=True)
        self._write_orders()
        for name in self.graph.unchanged:
            self.scheduler.tasks[name].state = State.UNCHANGED
        if self.push and self.graph.unchanged:
            self._to_push.append(tuple(self.graph.unchanged))
        handled = 0
        with self._signals, self.display:
            while not self.scheduler.finished or self._to_push or self._pushes:
                if self._signals.count > handled:
                    handled = self._signals.count
                    self._stop(kill=handled > 1)
                self._step()
        if self._signals.count:
            raise KeyboardInterrupt
        self._orders.unlink()
        self._raise_failures()

    @property
    def _orders(self) -> Path:
        """Order of the lock files' entries, while a run is unfinished."""
        return self.folder / "orders.json"

    def _write_orders(self) -> None:
        """Keep the order of entries that an interrupted run began with, so that dvc.lock ends in the same bytes."""
        earlier = read_json(self._orders, PipelineError, f"Remove {self._orders}.") if self._orders.exists() else {}
        orders = self.graph.orders.items()
        write_json(self._orders, {path: list(dict.fromkeys([*earlier.get(path, []), *new])) for path, new in orders})

    def _log(self, name: str) -> Path:
        """Log of a stage's last run."""
        return self.folder / "logs" / (name.replace("/", "_").replace(":", "_") + ".log")

    def _step(self) -> None:
        for task in self.scheduler.start():
            self._start(task)
        while self._to_push and len(self._pushes) < _PUSHES:
            names = self._to_push.pop(0)
            self._pushes[names] = self._process(["push", self.remote or "", *names], names[0], {})
        self.display.show(self.scheduler.tasks.values())
        time.sleep(_TICK if self._stages or self._pushes else 0)
        for name, process in list(self._stages.items()):
            if (code := process.poll()) is not None:
                del self._stages[name]
                self._finish(name, code)
        for names, process in list(self._pushes.items()):
            if (code := process.poll()) is not None:
                del self._pushes[names]
                if code != CHANGED:
                    self._unpushed += names

    def _start(self, task: Task) -> None:
        if task.attempts == 1:
            self._log(task.name).unlink(missing_ok=True)
        self.display.event(f"{task.name}: started{f' on GPU {task.gpu}' if task.gpu else ''}")
        task.started = time.monotonic()
        self._stages[task.name] = self._process(["run", str(self._orders), task.name], task.name, lease(task.gpu))

    def _process(self, arguments: list[str], name: str, extra: Mapping[str, str]) -> StageProcess:
        log = self._log(name)
        paths = {LOG_VARIABLE: str(log), LOCK_VARIABLE: str(self.folder / "stages.lock")}
        return StageProcess(arguments, {**self.environment, **extra, **paths}, self.root, log, self.lock)

    def _finish(self, name: str, code: int) -> None:
        succeeded = code in (CHANGED, UNCHANGED)
        state = self.scheduler.finish(name, succeeded, changed=code == CHANGED)
        task = self.scheduler.tasks[name]
        reason = "failed" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        after = f"after {duration(time.monotonic() - task.started)}"
        if succeeded:
            self.display.event(f"{name}: {state.value} {after}")
            if self.push and not self._signals.count:
                self._to_push.append((name,))
        elif self._signals.count:
            self.display.event(f"{name}: interrupted {after}")
        elif state is State.WAITING:
            attempt = f"attempt {task.attempts + 1} of {self.scheduler.retries + 1}"
            self.display.event(f"{name}: {reason} {after}; {attempt} follows")
        else:
            lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
            self.display.event("\n".join([f"{name}: {reason} {after}", *(f"  | {line}" for line in lines)]))

    def _stop(self, kill: bool) -> None:
        self.scheduler.stop()
        self._to_push.clear()
        if not kill:
            self.display.event("Ending the running stages, which may save their state; Ctrl-C again kills them.")
        for process in self._stages.values():
            if kill:
                process.kill()
            else:
                process.stop()
        for process in self._pushes.values():
            process.kill()

    def _raise_failures(self) -> None:
        failed = [task.name for task in self.scheduler.tasks.values() if task.state is State.FAILED]
        if failed:
            total, skipped = len(self.scheduler.tasks), self.scheduler.count(State.SKIPPED)
            raise PipelineError(
                f"{len(failed)} of {total} stages failed, {skipped} were not run: {', '.join(failed)}.",
                f"Logs: {', '.join(str(self._log(name)) for name in failed)}. Run again to go on from there.",
            )
        if self._unpushed:
            raise PipelineError(
                f"All stages are done, but some were not pushed: {', '.join(self._unpushed)}.",
                f"See {self._log(self._unpushed[0])}, then: dvc push {' '.join(self._unpushed)}",
            )
