"""Equal commands in parallel on an executor, each of which finds its own work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sensorium.scheduler.executors import Executor, Handle, wait
from sensorium.scheduler.processes import StopSignals


@dataclass(frozen=True)
class Worker:
    """A command to start."""

    command: str
    """What `$SHELL -c` takes; no two of them are equal."""
    environment: Mapping[str, str]
    log: Path
    """Where its output goes."""


def run(executor: Executor, workers: Sequence[Worker], folder: Path, on_tick: Callable[[], None]) -> list[int]:
    """Run commands until all of them have ended.

    Args:
        executor: where they run.
        workers: the commands.
        folder: their working folder.
        on_tick: called now and then meanwhile.

    Returns:
        Their exit codes.

    Raises:
        KeyboardInterrupt: asked to stop; all commands were asked to, and have ended.
    """
    handles: list[Handle] = []
    with StopSignals() as signals:
        try:
            for worker in workers:
                handles.append(executor.submit(worker.command, worker.environment, folder, worker.log))
            signals.install()  # again: a cluster's library may have taken the signals
            codes = wait(handles, lambda: signals.count > 0, on_tick, tick=0.2)
        except BaseException:
            wait(handles, lambda: True)
            raise
    if signals.count:
        raise KeyboardInterrupt
    return codes
