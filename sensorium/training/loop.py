"""The training of one fold, from any point to its end.

Data, dropout and learning rate are functions of (epoch, step) and nothing else, so a restart from any checkpoint
repeats the very numbers of an uninterrupted training.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from lightning_fabric.fabric import Fabric

from sensorium.callbacks.checkpoints import CheckpointFolder
from sensorium.callbacks.progress import TrainingProgress
from sensorium.callbacks.recorder import Recorder
from sensorium.callbacks.stopping import PrunedError, StoppedError, StopRequest
from sensorium.config import TrainingConfig
from sensorium.data.inputs import Batch
from sensorium.errors import UntrainableError
from sensorium.training.devices import reduce
from sensorium.training.history import Best, Row, as_metrics, best_epoch, stops_early
from sensorium.training.learner import Learner
from sensorium.training.validation import FoldValidation

REPORT_STEPS = 10
"""Optimizer steps between two looks at the loss, each of which waits for the device."""
BatchSource = Callable[[int, int], Iterable[Batch]]
"""(epoch, first step) to this process's share of each batch from that step on."""


class Pruner(Protocol):
    """Decides between two epochs whether to end a training early, as in Optuna."""

    def __call__(self, rows: Sequence[Row], *, over: bool) -> bool:
        """Whether to end it; asked in the first process alone, after a restart once more.

        Args:
            rows: all epochs so far.
            over: whether the training has ended anyway.
        """
        ...


@dataclass(frozen=True)
class Callbacks:
    """What the loop calls, none of which changes what is learnt."""

    recorder: Recorder
    progress: TrainingProgress
    stop: StopRequest
    pruner: Pruner | None = None


@dataclass
class Position:
    """Where a training is, and what the epochs so far gave."""

    epoch: int = 0
    step: int = 0
    rows: list[Row] = field(default_factory=list)


class Trainer:
    """Trains, validates, saves checkpoints, reports."""

    def __init__(
        self,
        learner: Learner,
        source: BatchSource,
        validation: FoldValidation,
        folder: CheckpointFolder,
        checkpoint_steps: int,
        callbacks: Callbacks,
    ) -> None:
        """Put the parts together; `checkpoint_steps` lie between two checkpoints within an epoch."""
        self.learner, self.source, self.validation, self.folder = learner, source, validation, folder
        self.checkpoint_steps = checkpoint_steps
        self.callbacks = callbacks
        self.fabric: Fabric = learner.fabric
        self.recipe: TrainingConfig = learner.recipe
        self.at = Position()
        self._losses = torch.zeros(learner.steps, device=self.fabric.device)
        self._known = 0  # steps of the epoch whose loss all processes have
        self._clock = (time.perf_counter(), 0)

    def run(self) -> tuple[Best, list[Row]]:
        """Train to the end.

        Returns:
            The best epoch, whose weights lie in the folder of checkpoints, and the history.

        Raises:
            TrainingError: the loss is not finite, memory or disk is full; the last good checkpoint is kept.
            StoppedError: asked to; a checkpoint is saved.
            PrunedError: the pruner ended it.
        """
        self._restore()
        while self._continues():
            self._train_epoch()
            self._finish_epoch()
        best = best_epoch(self.at.rows, self.recipe.warmup_epochs)
        assert best is not None, "there is at least one cosine epoch"
        return best, self.at.rows

    def _continues(self) -> bool:
        exhausted = stops_early(self.at.rows, self.recipe.warmup_epochs, self.recipe.early_stopping)
        over = self.at.epoch >= self.recipe.epochs or exhausted
        pruner = self.callbacks.pruner
        if pruner is not None and self.at.rows and self.at.step == 0:
            pruned = self.fabric.is_global_zero and pruner(self.at.rows, over=over)
            if self.fabric.broadcast(pruned):
                raise PrunedError(f"training ended by the pruner after {self.at.epoch} epochs.")
        return not over

    def _train_epoch(self) -> None:
        at = self.at
        self._clock = (time.perf_counter(), at.step)
        if at.step == self.learner.steps:
            return
        for batch in self.source(at.epoch, at.step):
            self._losses[at.step] = self.learner.step(batch, at.epoch, at.step)
            at.step += 1
            self._after_step()

    def _after_step(self) -> None:
        at = self.at
        if at.step % REPORT_STEPS == 0:
            self._report()
        if at.step % self.checkpoint_steps == 0 and at.step < self.learner.steps:
            self._save()
        if self.fabric.world_size == 1 or at.step % REPORT_STEPS == 0:
            self._pause()

    def _gather_losses(self) -> list[float]:
        """Losses of the steps since the last report, over all processes; none may be infinite or NaN."""
        first, self._known = self._known, self.at.step
        losses = self._losses[first : self.at.step]
        if self.fabric.world_size > 1 and len(losses):
            losses.copy_(reduce(self.fabric, losses.clone(), "sum"))
        values: list[float] = losses.tolist()
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value):
                raise UntrainableError(
                    f"training diverged: the loss is {value} in epoch {self.at.epoch + 1}, step {step + 1}.",
                    "Lower the experiment's training.learning_rate in params.yaml, or set training.gradient_clip; "
                    "the last good checkpoint is kept.",
                )
        return values

    def _report(self) -> None:
        values = self._gather_losses()
        if not values:
            return
        now, (before, step) = time.perf_counter(), self._clock
        speed = (self.at.step - step) * self.recipe.batch_size / max(now - before, 1e-9)
        self._clock = (now, self.at.step)
        loss = sum(values) / len(values)
        rate = self.learner.learning_rate(self.at.epoch, self.at.step)
        self.callbacks.progress.advance(self._done(), loss, rate, speed)
        self.callbacks.recorder.metrics(
            {"train/loss": loss, "train/learning_rate": rate, "train/samples_per_second": speed}, self._done()
        )

    def _done(self) -> int:
        """Optimizer steps since the start of the training."""
        return self.at.epoch * self.learner.steps + self.at.step

    def _finish_epoch(self) -> None:
        at = self.at
        self._report()
        scores = self.validation(self.learner.ema.model, self._pause_alone)
        row: Row = {
            "epoch": at.epoch,
            "learning_rate": self.learner.learning_rate(at.epoch, at.step - 1),
            "train_loss": float(self._losses.double().mean()),
            **scores,
        }
        self.callbacks.recorder.metrics(as_metrics(row), self._done())
        at.rows.append(row)
        best = best_epoch(at.rows, self.recipe.warmup_epochs)
        if best is not None and best.epoch == at.epoch and self.fabric.is_global_zero:
            self.folder.save_best(at.epoch, self.learner.ema.state_dict())
        at.epoch, at.step, self._known = at.epoch + 1, 0, 0
        self._save()
        self.callbacks.progress.epoch(row)

    def _save(self) -> None:
        self._gather_losses()
        if self.fabric.is_global_zero:
            state = {**self.learner.state_dict(), "losses": self._losses, "rows": self.at.rows}
            self.folder.save(self.at.epoch, self.at.step, state)
        self.fabric.barrier()

    def _restore(self) -> None:
        path = None
        if self.fabric.is_global_zero:
            self.folder.tidy()
            path = self.folder.latest(self.callbacks.progress.note)
        path = self.fabric.broadcast(path)
        if path is None:
            return
        state = self.folder.load(path)
        self.learner.load_state_dict(state)
        self.at = Position(state["epoch"], state["step"], state["rows"])
        self._losses.copy_(state["losses"])
        self._known = self.at.step
        self.callbacks.progress.note(f"continues in epoch {self.at.epoch + 1} after {self.at.step} steps")
        for row in self.at.rows:  # a recorder that lost an epoch gets it again
            self.callbacks.recorder.metrics(as_metrics(row), (int(row["epoch"]) + 1) * self.learner.steps)

    def _pause(self) -> None:
        """Save and stop when any process was asked to."""
        number = self.callbacks.stop.received()
        if self.fabric.world_size > 1:
            number = int(reduce(self.fabric, torch.tensor(number, device=self.fabric.device), "max"))
        if number:
            self._save()
            raise StoppedError(number, self.at.epoch, self.at.step)

    def _pause_alone(self) -> None:
        """As `_pause`, where processes cannot be out of step."""
        if self.fabric.world_size == 1:
            self._pause()
