"""Which stage runs next, on which GPU, and what a failure means: decisions alone, no process, no DVC.

A stage is ready when all stages upstream of it are done. Among the ready ones the head of the longest
chain goes first, so that the critical path never waits; equal chains keep the order of a serial run.
"""

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


class State(enum.Enum):
    """State of a stage."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    SKIPPED = "skipped"


FINAL = frozenset({State.DONE, State.UNCHANGED, State.FAILED, State.SKIPPED})
"""States that a stage does not leave."""


@dataclass
class Task:
    """One stage in one run."""

    name: str
    upstream: frozenset[str]
    chain: int = 1
    """Stages on the longest way from here to an end of the graph, this one included."""
    state: State = State.WAITING
    attempts: int = 0
    gpu: str | None = None
    """GPU leased while it runs; kept afterwards for the report."""
    started: float = 0.0
    """`time.monotonic` at the start of the last attempt, which the coordinator sets."""


@dataclass
class Scheduler:
    """The state of one run."""

    upstream: Mapping[str, Collection[str]]
    """Names of the stages that each stage needs, in the order of a serial run."""
    jobs: int = 1
    """Stages that may run at once."""
    gpus: Sequence[str] = ()
    """Ids to lease, one per running stage; empty to lease none."""
    retries: int = 0
    keep_going: bool = False
    tasks: dict[str, Task] = field(init=False)
    _free: list[str] = field(init=False)
    _stopped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.tasks = {name: Task(name, frozenset(needs)) for name, needs in self.upstream.items()}
        for task in reversed(self.tasks.values()):
            for need in task.upstream:
                self.tasks[need].chain = max(self.tasks[need].chain, task.chain + 1)
        self._free = list(self.gpus)

    def start(self) -> Iterator[Task]:
        """Yield the stages to start now, each already marked as running and given its GPU."""
        ready = [task for task in self.tasks.values() if self._ready(task)]
        ready.sort(key=lambda task: -task.chain)
        for task in ready[: max(0, self.jobs - self.count(State.RUNNING))]:
            task.state = State.RUNNING
            task.attempts += 1
            task.gpu = self._free.pop(0) if self.gpus else None
            yield task

    def finish(self, name: str, succeeded: bool, changed: bool = True) -> State:
        """Record that a running stage has ended; returns its new state, WAITING when it is to be run again."""
        task = self.tasks[name]
        if task.gpu is not None:
            self._free.append(task.gpu)
        if succeeded:
            task.state = State.DONE if changed else State.UNCHANGED
        elif task.attempts <= self.retries and not self._stopped:
            task.state = State.WAITING
        else:
            task.state = State.FAILED
            self._fail(name)
        return task.state

    def stop(self) -> None:
        """Start nothing more; stages that run may end."""
        self._stopped = True
        for task in self.tasks.values():
            if task.state is State.WAITING:
                task.state = State.SKIPPED

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing is left to run."""
        return all(task.state in FINAL for task in self.tasks.values())

    def count(self, state: State) -> int:
        """Number of stages in a state."""
        return sum(task.state is state for task in self.tasks.values())

    def _ready(self, task: Task) -> bool:
        passed = (State.DONE, State.UNCHANGED)
        return task.state is State.WAITING and all(self.tasks[name].state in passed for name in task.upstream)

    def _fail(self, name: str) -> None:
        if not self.keep_going:
            self.stop()
            return
        lost = {name}
        for task in self.tasks.values():
            if task.upstream & lost:
                lost.add(task.name)
                task.state = State.SKIPPED
