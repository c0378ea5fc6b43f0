"""Several processes of one command that share a job, each on a device of its own.

They know nothing of each other but what the board tells. One that dies leaves its work to the others; a
fault that the user has to mend ends all of them.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from sensorium.errors import PredictionError, SensoriumError
from sensorium.inference.board import Board
from sensorium.inference.job import Job

Work = Callable[[Job, Path, str], None]
"""Predicts, on a device, what nobody else predicts: a job, the place of unfinished work, the device."""

_Faults = Connection  # tells what the user has to mend; its end tells that the process has ended

_LOOK_SECONDS = 0.5
"""Time between two looks at how far the processes are."""


def predict_shared(
    job: Job, board: Board, work_root: Path, work: Work, processes: int, advance: Callable[[int], None]
) -> None:
    """Start processes and wait until all trials are done.

    Args:
        job: what to predict.
        board: how far it is.
        work_root: place of unfinished work.
        work: what each process does.
        processes: how many to start.
        advance: told how many more frames are done.

    Raises:
        SensoriumError: what a process told.
        PredictionError: all processes ended, and trials are missing.
    """
    gpus = torch.cuda.device_count() if job.device == "cuda" else 0
    threads = max(1, torch.get_num_threads() // processes)
    with _ended_at_last() as started:
        for number in range(processes):
            device = f"cuda:{number % gpus}" if gpus else "cpu"
            _start(started, (job, work_root, work, device, threads))
        _watch(list(started), board, advance)
    if board.left and not board.closed:
        codes = ", ".join(str(process.exitcode) for process in started.values())
        raise PredictionError(
            f"{job.split}: all processes ended before all trials were predicted (exit codes {codes}).",
            "Type it again, it goes on where it was; lower runtime.devices if memory was short.",
        )


@contextlib.contextmanager
def _ended_at_last() -> Iterator[dict[_Faults, SpawnProcess]]:
    """Processes to be started within the block, by what they tell; none outlives it."""
    started: dict[_Faults, SpawnProcess] = {}
    try:
        yield started
    finally:
        for faults, process in started.items():
            process.terminate()
            process.join()
            faults.close()


def _start(started: dict[_Faults, SpawnProcess], arguments: tuple[Job, Path, Work, str, int]) -> None:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    with theirs:
        process = context.Process(target=_run, args=(*arguments, theirs))
        process.start()
    started[mine] = process


def _watch(running: list[_Faults], board: Board, advance: Callable[[int], None]) -> None:
    """Show progress until all processes have ended, or one tells a fault."""
    while running:
        for faults in wait(running, _LOOK_SECONDS):
            assert isinstance(faults, Connection)
            try:
                raise faults.recv()
            except EOFError:
                running.remove(faults)
        advance(board.refresh())


def _run(job: Job, work_root: Path, work: Work, device: str, threads: int, faults: _Faults) -> None:
    """One process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C as well, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        work(job, work_root, device)
    except SensoriumError as fault:
        faults.send(fault)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
