"""Equal commands side by side on an executor, each of which finds its own work."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sensorium.repro import variables
from sensorium.repro.executors import GRACE, Executor, Handle

_TICK = 0.2


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
        folder: their working folder; claims and logs lie on the same disk.
        on_tick: called now and then meanwhile.

    Returns:
        Their exit codes.

    Raises:
        KeyboardInterrupt: told to end; all commands were asked to, and have ended.
    """
    told: list[float] = []
    with _listening(told) as listen:
        handles: list[Handle] = []
        try:
            for worker in workers:
                handles.append(_submit(executor, worker, folder))
            listen()  # again: a cluster's library may have taken the signals
            while not told and any(handle.poll() is None for handle in handles):
                on_tick()
                time.sleep(_TICK)
        except BaseException:
            _end(handles, time.monotonic())
            raise
        if told and any(handle.poll() is None for handle in handles):
            _end(handles, told[0])
            raise KeyboardInterrupt
    return [handle.poll() or 0 for handle in handles]


def _submit(executor: Executor, worker: Worker, folder: Path) -> Handle:
    claims = worker.log.with_suffix(".claims")
    claims.touch()
    environment = {
        **worker.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{worker.environment.get('PATH', '')}",
        variables.CLAIMS: str(claims),
        variables.LOG: str(worker.log),
    }
    return executor.submit(worker.command, environment, folder, worker.log)


def _end(handles: Sequence[Handle], since: float) -> None:
    """Ask all to end, and kill those that have not by the end of the grace."""
    for handle in handles:
        handle.cancel()
    while any(handle.poll() is None for handle in handles):
        if time.monotonic() - since > GRACE:
            for handle in handles:
                handle.cancel(force=True)
        time.sleep(_TICK)


@contextmanager
def _listening(told: list[float]) -> Iterator[Callable[[], object]]:
    def note(_signal: int, _frame: FrameType | None) -> None:
        told.append(time.monotonic())

    def listen() -> dict[signal.Signals, object]:
        return {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}

    before = listen()
    try:
        yield listen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
