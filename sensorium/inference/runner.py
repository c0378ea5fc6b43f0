"""Carry out a prediction job: resumable by trial, shared by several processes, published at once."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as _Task
from rich.text import Text
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from sensorium.config import Precision
from sensorium.errors import CheckpointError, PredictionError, SensoriumError
from sensorium.inference.ensemble import combine, in_order
from sensorium.inference.member import Member, load_member
from sensorium.inference.plan import Assignment, Group, PredictionJob
from sensorium.inference.predictions import write_prediction
from sensorium.inference.sliding import SlidingPredictor, TrialInput, check_length
from sensorium.inference.work_queue import WorkQueue
from sensorium.mice import FRAMES_PER_SECOND

_MEMBER_SHARE = 0.4
"""Share of a GPU's memory that models may fill; beyond it they visit the GPU one after the other."""
_POLL_SECONDS = 0.5
"""Time between two checks of how far other processes are."""


def run_job(job: PredictionJob, folder: Path, work_root: Path, processes: int, threads: int | None = None) -> None:
    """Predict all trials of a job and publish them, together with any other process that has the same job.

    Args:
        job: what to predict.
        folder: the final folder; what is there is replaced.
        work_root: place for this folder's unfinished work, outside every stage's outputs.
        processes: number of processes that this one starts, on a GPU each where there are GPUs.
        threads: on the CPU, of this process, or of all of them together; None leaves PyTorch's choice.

    Raises:
        PredictionError: another process predicts this folder from other inputs, a trial is too short, values
            are not finite, or processes ended early.
        CheckpointError: weights are missing or damaged, or of other mice.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    for part in job.assignments:
        for trial in part.trials:
            check_length(int(part.store.lengths[trial]), f"{part.store.name}, trial {trial}", job.window)
    queue = WorkQueue(job, work_root)
    with queue.joined(folder), _progress(job) as advance:
        published = False
        while not published:
            advance(queue.refresh())
            useful = min(processes, queue.left)
            if useful > 1:
                _predict_in_processes(job, work_root, queue, useful, advance)
            else:
                queue.process(_Worker(job, queue.work, torch.device(job.device)).predict, advance)
            published = queue.publish(folder, lambda: {"relative_error": _precision_errors(job)})


@contextlib.contextmanager
def _progress(job: PredictionJob) -> Iterator[Callable[[int], None]]:
    """Show progress on the terminal; yields what to call with the number of frames done since the last call."""

    class Speed(ProgressColumn):
        def render(self, task: _Task) -> Text:
            return Text(f"{(task.speed or 0) / FRAMES_PER_SECOND:.1f} x real time")

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(job.split, total=sum(job.frames(group) for group in job.groups()))
        yield lambda done: progress.advance(task, done)


def _predict_in_processes(
    job: PredictionJob, work_root: Path, queue: WorkQueue, processes: int, advance: Callable[[int], None]
) -> None:
    """Predict with several processes; when one dies, fewer go on, since memory may have been short."""
    codes: list[int] = []
    while queue.left and not queue.closed:
        if len(codes) == processes:
            raise PredictionError(
                f"{job.split}: all processes ended before all trials were predicted (exit codes "
                f"{', '.join(map(str, codes))}).",
                "Type it again, it goes on where it was; lower runtime.devices if memory was short.",
            )
        try:
            _join_processes(job, work_root, queue, processes - len(codes), advance)
        except ProcessExitedException as fault:
            codes.append(fault.exit_code)
        advance(queue.refresh())


def _join_processes(
    job: PredictionJob, work_root: Path, queue: WorkQueue, processes: int, advance: Callable[[int], None]
) -> None:
    faults: SimpleQueue[SensoriumError] = multiprocessing.get_context("spawn").SimpleQueue()
    threads = max(1, torch.get_num_threads() // processes)
    context = spawn(_run_process, (job, work_root, threads, faults), processes, join=False)  # type: ignore[no-untyped-call]
    try:
        ended = False
        while not ended:
            ended = context.join(_POLL_SECONDS)
            advance(queue.refresh())
            if not faults.empty():
                raise faults.get()
    finally:
        for process in context.processes:
            process.terminate()
            process.join()


def _run_process(
    number: int, job: PredictionJob, work_root: Path, threads: int, faults: "SimpleQueue[SensoriumError]"
) -> None:
    """One process, on a GPU of its own where there is one."""
    gpus = torch.cuda.device_count() if job.device == "cuda" else 0
    torch.set_num_threads(threads)
    queue = WorkQueue(job, work_root)
    try:
        with queue.kept():
            device = torch.device(f"cuda:{number % gpus}" if gpus else "cpu")
            queue.process(_Worker(job, queue.work, device).predict, lambda _: None)
    except SensoriumError as fault:
        faults.put(fault)


@dataclass
class _Worker:
    """One device's part in a job; keeps the models of one assignment at a time."""

    job: PredictionJob
    work: Path
    device: torch.device
    _position: int = -1
    _teams: list[SlidingPredictor] = field(default_factory=list)

    def predict(self, group: Group) -> None:
        """Predict and write one group of trials."""
        position, trials = group
        part = self.job.assignments[position]
        if position != self._position:
            self._teams = []  # free the models before the next are loaded
            self._teams, self._position = self._load(part), position
        inputs = [TrialInput.read(part.store, trial) for trial in trials]
        predicted = [team.predict(inputs) for team in self._teams]
        weights = in_order(self.job.weights, sorted(part.teams))
        for trial, parts in zip(trials, zip(*predicted, strict=True), strict=True):
            mean = combine(parts, weights)
            write_prediction(self.work, part.store.name, trial, mean, self.job.config.storage)

    def _load(self, part: Assignment) -> list[SlidingPredictor]:
        """Load the models; they are moved to the GPU for good where there is room for all of them."""
        teams = [[_load(folder, part, self.job) for folder in folders] for _, folders in sorted(part.teams.items())]
        if self.device.type == "cuda":
            members = [member for team in teams for member in team]
            room = torch.cuda.get_device_properties(self.device).total_memory * _MEMBER_SHARE
            if sum(member.bytes for member in members) <= room:
                for member in members:
                    member.to(self.device)
        config = self.job.config
        return [SlidingPredictor(team, config.batch_size, config.precision, self.device) for team in teams]


def _load(folder: Path, part: Assignment, job: PredictionJob) -> Member:
    member = load_member(folder, part.store)
    if member.window != job.window:
        raise CheckpointError(
            f"{folder}: trained on windows of {member.window.frames} frames at step {member.window.step}, "
            f"params.yaml has {job.window.frames} at step {job.window.step}.",
            "Set `window` in params.yaml to that of the training, or train again.",
        )
    return member


def _precision_errors(job: PredictionJob) -> dict[str, float]:
    """What mixed precision costs, by mouse: the relative error of one model on one trial; empty in float32."""
    found: dict[str, float] = {}
    exact: Precision = "32-true"
    for part in job.assignments if job.config.precision != exact else ():
        if part.store.name not in found:
            member = _load(next(iter(part.teams.values()))[0], part, job)
            trial = TrialInput.read(part.store, part.trials[0])
            reference, mixed = (
                SlidingPredictor([member], job.config.batch_size, precision, torch.device(job.device)).predict([trial])[
                    0
                ]
                for precision in (exact, job.config.precision)
            )
            found[part.store.name] = float(np.linalg.norm(mixed - reference) / np.linalg.norm(reference))
    return found
