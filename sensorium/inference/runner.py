"""Carry out a prediction job: resumable a trial, shared by several processes, published at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sensorium.config import Precision
from sensorium.errors import CheckpointError
from sensorium.inference.board import Board, Group
from sensorium.inference.job import Assignment, Job
from sensorium.inference.member import Member, load_member
from sensorium.inference.predictions import PredictionWriter
from sensorium.inference.progress import frame_progress
from sensorium.inference.shared import predict_shared
from sensorium.inference.sliding import SlidingPredictor, TrialInput, check_length
from sensorium.inference.weights import combine, in_order

_MEMBER_SHARE = 0.4
"""Share of a GPU's memory that models may fill; beyond it they visit the GPU one after the other."""


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


def run_job(job: Job, folder: Path, work_root: Path, processes: int) -> None:
    """Predict all trials of a job and publish them, together with any other process that has the same job.

    Args:
        job: what to predict.
        folder: the final folder; what stands there is replaced.
        work_root: place for this folder's unfinished work, outside every stage's outputs.
        processes: number of processes that this one starts, on a GPU each where there are GPUs.

    Raises:
        PredictionError: another process predicts this folder from other inputs, a trial is too short, values
            are not finite, or processes ended early.
        CheckpointError: weights are missing or damaged, or of other mice.
    """
    for part in job.assignments:
        for trial in part.trials:
            check_length(int(part.store.lengths[trial]), f"{part.store.name}, trial {trial}", job.window)
    board = Board(job, work_root)
    with board.entered(folder), frame_progress(job.split, job.frames) as advance:
        published = False
        while not published:
            advance(board.refresh())
            useful = min(processes, board.left)
            if useful > 1:
                predict_shared(job, board, work_root, work_alone, useful, advance)
            else:
                board.work_through(_Worker(job, board.work, torch.device(job.device)).predict, advance)
            published = board.publish(folder, lambda: {"relative_error": _precision_errors(job)})


def work_alone(job: Job, work_root: Path, device: str) -> None:
    """Predict what nobody else predicts, on one device, without publishing it."""
    board = Board(job, work_root)
    with board.held():
        board.work_through(_Worker(job, board.work, torch.device(device)).predict, lambda _: None)


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
