"""Carry out a prediction job: resumable a trial, shared by several processes, published at once."""

import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sensorium import files
from sensorium.config import Precision
from sensorium.errors import CheckpointError, PredictionError
from sensorium.inference.job import Assignment, Job
from sensorium.inference.member import Member, load_member
from sensorium.inference.predictions import PredictionWriter
from sensorium.inference.progress import frame_progress
from sensorium.inference.sliding import SlidingPredictor, TrialInput, check_length
from sensorium.inference.weights import combine, in_order

Advance = Callable[[int], None]
"""Told how many more frames are predicted."""

_MEMBER_SHARE = 0.4
"""Share of a GPU's memory that models may fill; beyond it they visit the GPU one after the other."""

Group = tuple[int, list[int]]
"""Position of an assignment and the trials to predict together."""


@dataclass
class _Worker:
    """One device's part in a job; keeps the models of one assignment at a time."""

    job: Job
    work: Path
    device: torch.device
    _position: int = -1
    _teams: list[SlidingPredictor] = field(default_factory=list)

    def predict(self, group: Group) -> int:
        """Predict and write one group of trials; returns the number of frames."""
        position, trials = group
        part = self.job.assignments[position]
        if position != self._position:
            self._teams = []  # free the models before the next are loaded
            self._teams, self._position = self._load(part), position
        inputs = [TrialInput.read(part.store, trial) for trial in trials]
        predicted = [team.predict(inputs) for team in self._teams]
        writer = PredictionWriter(self.work)
        weights = in_order(self.job.weights, sorted(part.teams))
        for trial, parts in zip(trials, zip(*predicted, strict=True), strict=True):
            writer.write(part.store.name, trial, combine(parts, weights))
        return sum(len(trial.video) for trial in inputs)

    def _load(self, part: Assignment) -> list[SlidingPredictor]:
        teams = [[_load(folder, part, self.job) for folder in folders] for _, folders in sorted(part.teams.items())]
        self._settle([member for team in teams for member in team])
        config = self.job.config
        return [SlidingPredictor(team, config.batch_size, config.precision, self.device) for team in teams]

    def _settle(self, members: Sequence[Member]) -> None:
        """Move the models to the GPU for good where there is room for all of them."""
        if self.device.type == "cuda":
            room = torch.cuda.get_device_properties(self.device).total_memory * _MEMBER_SHARE
            if sum(member.bytes for member in members) <= room:
                for member in members:
                    member.to(self.device)


def _load(folder: Path, part: Assignment, job: Job) -> Member:
    member = load_member(folder, part.store)
    if member.window != job.window:
        raise CheckpointError(
            f"{folder}: trained on windows of {member.window.frames} frames at step {member.window.step}, "
            f"params.yaml has {job.window.frames} at step {job.window.step}.",
            "Set `window` in params.yaml to that of the training, or train again.",
        )
    return member


_worker: _Worker | None = None


def _start_worker(job: Job, work: Path, devices: "multiprocessing.Queue[str]", threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    _worker = _Worker(job, work, torch.device(devices.get()))


def _predict_group(group: Group) -> int:
    assert _worker is not None
    return _worker.predict(group)


def run_job(job: Job, folder: Path, work_root: Path, processes: int) -> None:
    """Predict all trials of a job and publish them.

    Args:
        job: what to predict.
        folder: the final folder; what stands there is replaced.
        work_root: place for this folder's unfinished work, outside every stage's outputs.
        processes: number of processes that share the work, on a GPU each where there are GPUs.

    Raises:
        PredictionError: another process works on this folder, a trial is too short, or values are not finite.
        CheckpointError: weights are missing or damaged, or of other mice.
    """
    for part in job.assignments:
        for trial in part.trials:
            check_length(int(part.store.lengths[trial]), f"{part.store.name}, trial {trial}", job.window)
    busy = PredictionError(f"{folder}: another process is predicting it.", "Wait for it to end, or stop it.")
    with files.exclusive_lock(work_root / "lock", busy), frame_progress(job.split, job.frames) as advance:
        writer = PredictionWriter(_work_folder(work_root, job.fingerprint))
        _predict(job, writer, processes, advance)
        writer.publish(folder, job.provenance | {"relative_error": _precision_errors(job)})


def _work_folder(work_root: Path, fingerprint: str) -> Path:
    """The folder of this content; unfinished work on another content is thrown away."""
    for stale in work_root.iterdir():
        if stale.is_dir() and stale.name != fingerprint:
            shutil.rmtree(stale)
    return work_root / fingerprint


def _predict(job: Job, writer: PredictionWriter, processes: int, advance: Advance) -> None:
    """Predict the groups of which a trial is missing."""
    missing = []
    for position, trials in job.groups():
        store = job.assignments[position].store
        if all(writer.has(store.name, trial) for trial in trials):
            advance(int(store.lengths[trials].sum()))
        else:
            missing.append((position, trials))
    if processes == 1 or len(missing) < 2:
        worker = _Worker(job, writer.work, torch.device(job.device))
        for group in missing:
            advance(worker.predict(group))
    else:
        _predict_shared(job, writer.work, missing, min(processes, len(missing)), advance)


def _precision_errors(job: Job) -> dict[str, float]:
    """What mixed precision costs, by mouse: the relative error of one model on one trial; empty in float32."""
    found: dict[str, float] = {}
    if job.config.precision == "32-true":
        return found
    device = torch.device(job.device)
    exact: Precision = "32-true"
    for part in job.assignments:
        if part.store.name not in found:
            member = _load(next(iter(part.teams.values()))[0], part, job)
            trial = TrialInput.read(part.store, part.trials[0])
            reference, mixed = (
                SlidingPredictor([member], job.config.batch_size, precision, device).predict([trial])[0]
                for precision in (exact, job.config.precision)
            )
            found[part.store.name] = float(np.linalg.norm(mixed - reference) / np.linalg.norm(reference))
    return found


def _predict_shared(job: Job, work: Path, groups: Sequence[Group], processes: int, advance: Advance) -> None:
    """Let several processes take groups one by one."""
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for number in range(processes):
        gpus = torch.cuda.device_count() if job.device == "cuda" else 0
        devices.put(f"cuda:{number % gpus}" if gpus else "cpu")
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(processes, context, _start_worker, (job, work, devices, threads)) as pool:
        for frames in pool.map(_predict_group, groups):
            advance(frames)
