"""Which stage runs next, on which GPU, and what a failure means: decisions alone, no process, no DVC.

A stage is ready when all stages upstream of it are done. Among the ready ones the head of the longest
chain goes first, so that the critical path never waits; equal chains keep the order of a serial run.
"""

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


class State(enum.Enum):
    """Where a stage stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    SKIPPED = "skipped"


FINAL = frozenset({State.DONE, State.UNCHANGED, State.FAILED, State.SKIPPED})
"""States that a stage does not leave."""

_PASSED = frozenset({State.DONE, State.UNCHANGED})


@dataclass
class Task:
    """One stage in one run."""

    name: str
    upstream: frozenset[str]
    chain: int
    """Stages on the longest way from here to an end of the graph, this one included."""

    state: State = State.WAITING
    attempts: int = 0
    gpu: str | None = None
    """GPU leased while it runs; kept afterwards for the report."""


@dataclass
class Scheduler:
    """The state of one run.

    Args:
        upstream: names of the stages that each stage needs, in the order of a serial run; every name
            mentioned is a key.
        jobs: stages that may run at once.
        gpus: ids to lease, one a running stage; empty to lease none. At least `jobs` of them otherwise.
        retries: times that a failed stage is run again.
        keep_going: go on with what does not depend on a failed stage.
    """

    upstream: Mapping[str, Collection[str]]
    jobs: int = 1
    gpus: Sequence[str] = ()
    retries: int = 0
    keep_going: bool = False
    tasks: dict[str, Task] = field(init=False)
    _free: list[str] = field(init=False)
    _stopped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        assert self.jobs > 0
        assert not self.gpus or len(self.gpus) >= self.jobs
        chains = _chains(self.upstream)
        self.tasks = {name: Task(name, frozenset(needs), chains[name]) for name, needs in self.upstream.items()}
        self._free = list(self.gpus)

    def start(self) -> Iterator[Task]:
        """Yield the stages to start now, each already marked as running and given its GPU."""
        ready = [task for task in self.tasks.values() if self._ready(task)]
        ready.sort(key=lambda task: -task.chain)
        running = self.count(State.RUNNING)
        for task in ready[: max(0, self.jobs - running)]:
            task.state = State.RUNNING
            task.attempts += 1
            task.gpu = self._free.pop(0) if self.gpus else None
            yield task

    def unchanged(self, name: str) -> None:
        """Note that a stage has nothing to do and needs no process."""
        assert self.tasks[name].state is State.WAITING
        self.tasks[name].state = State.UNCHANGED

    def finish(self, name: str, succeeded: bool, changed: bool = True) -> State:
        """Take note that a running stage has ended.

        Args:
            name: the stage.
            succeeded: it, and its record in dvc.lock, are complete.
            changed: False when it had nothing to do.

        Returns:
            Its new state; WAITING when it is to be run again.
        """
        task = self.tasks[name]
        assert task.state is State.RUNNING
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

    def count(self, *states: State) -> int:
        """Number of stages in any of the states."""
        return sum(task.state in states for task in self.tasks.values())

    def _ready(self, task: Task) -> bool:
        return task.state is State.WAITING and all(self.tasks[name].state in _PASSED for name in task.upstream)

    def _fail(self, name: str) -> None:
        if not self.keep_going:
            self.stop()
            return
        lost = {name}
        for task in self._topological():
            if task.upstream & lost:
                lost.add(task.name)
                task.state = State.SKIPPED

    def _topological(self) -> list[Task]:
        return sorted(self.tasks.values(), key=lambda task: -task.chain)


def _chains(upstream: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Length of the longest chain that begins at each stage.

    Raises:
        AssertionError: the graph has a cycle or an unknown name; DVC lets neither pass.
    """
    downstream: dict[str, list[str]] = {name: [] for name in upstream}
    missing = {name: len(set(needs)) for name, needs in upstream.items()}
    for name, needs in upstream.items():
        for need in set(needs):
            assert need in downstream, f"{name} needs {need}, which is not in the graph"
            downstream[need].append(name)
    order = [name for name, count in missing.items() if count == 0]
    for name in order:
        for successor in downstream[name]:
            missing[successor] -= 1
            if missing[successor] == 0:
                order.append(successor)
    assert len(order) == len(upstream), "the graph has a cycle"
    chains: dict[str, int] = {}
    for name in reversed(order):
        chains[name] = 1 + max((chains[successor] for successor in downstream[name]), default=0)
    return chains
