"""Correlation and loss on the held-out fold, the same whatever the number of processes.

Shapes: b windows of one mouse, N its neurons, T frames of a window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from lightning_fabric.fabric import Fabric
from torch import Tensor, distributed

from sensorium.data.dataset import ValidationData
from sensorium.data.inputs import Batch, assemble
from sensorium.metrics import StreamingCorrelation
from sensorium.model.architecture import AnyModel
from sensorium.training.losses import Loss, Target, weighted_loss


@dataclass
class _MouseScores:
    """What one mouse's windows have shown so far."""

    correlation: StreamingCorrelation
    losses: list[tuple[int, float]] = field(default_factory=list)
    """Position of a batch, and its windows' summed loss."""
    windows: int = 0

    def update(self, position: int, target: Tensor, prediction: Tensor, loss: Loss) -> None:
        """Take in a batch: two tensors (b, N, T)."""
        rows = torch.arange(len(target), device=target.device)
        ones = torch.ones_like(rows, dtype=torch.float32)
        self.losses.append((position, float(weighted_loss(loss, [prediction], [Target(0, rows, target, ones)]))))
        self.windows += len(target)
        # One series per neuron, (N, b * T)
        series = (tensor.transpose(0, 1).flatten(1).cpu().numpy() for tensor in (target, prediction))
        self.correlation.update(*series)

    def merge(self, other: "_MouseScores") -> None:
        """Take in what another process has seen."""
        self.correlation.merge(other.correlation)
        self.losses += other.losses
        self.windows += other.windows


class FoldValidation:
    """Scores a model on all windows of the held-out fold.

    Correlation is taken per neuron over all of its mouse's windows, averaged over the mouse's neurons, then
    over mice, as published. The loss is the mean over a mouse's windows, then over mice.
    """

    def __init__(
        self,
        fabric: Fabric,
        data: ValidationData,
        mice: Sequence[str],
        canvas: tuple[int, int],
        batch_size: int,
        loss: Loss,
    ) -> None:
        """Describe the work, whose batches are divided among the processes.

        `mice` are names, in the order of the readouts, `canvas` is height and width of the input, pixels.
        """
        self.fabric, self.data, self.mice, self.canvas = fabric, data, tuple(mice), canvas
        self.batch_size, self.loss = batch_size, loss

    def __call__(self, model: AnyModel, pause: Callable[[], None]) -> dict[str, float]:
        """Score a model in eval mode; `pause` is called between two batches.

        Returns:
            `val_loss`, `val_correlation`, and `val_correlation/<mouse>` for each mouse.
        """
        folded = model.fused()
        scores = [_MouseScores(StreamingCorrelation(neurons)) for neurons in model.neurons]
        for position, batch in enumerate(self.data.loader(self.batch_size, workers=0)):
            if position % self.fabric.world_size == self.fabric.global_rank:
                self._predict(folded, batch, position, scores)
                pause()
        return self._summary(self._gather(scores))

    @torch.no_grad()
    def _predict(self, model: AnyModel, batch: Batch, position: int, scores: list[_MouseScores]) -> None:
        batch = batch.to(self.fabric.device)
        ((mouse, target),) = batch.targets.items()
        inputs = assemble(batch, self.canvas)
        with self.fabric.autocast():
            prediction = model(inputs, mouse)
        scores[mouse].update(position, target.responses, prediction.float(), self.loss)

    def _gather(self, scores: list[_MouseScores]) -> list[_MouseScores]:
        """Scores of all processes together, in every process."""
        if self.fabric.world_size == 1:
            return scores
        everyone: list[list[_MouseScores]] = [[] for _ in range(self.fabric.world_size)]
        distributed.all_gather_object(everyone, scores)
        for other in everyone[1:]:
            for mine, theirs in zip(everyone[0], other, strict=True):
                mine.merge(theirs)
        return everyone[0]

    def _summary(self, scores: list[_MouseScores]) -> dict[str, float]:
        losses = [sum(loss for _, loss in sorted(score.losses)) / score.windows for score in scores]
        correlations = [float(score.correlation.correlation().mean()) for score in scores]
        named = {f"val_correlation/{mouse}": value for mouse, value in zip(self.mice, correlations, strict=True)}
        return {"val_loss": float(np.mean(losses)), "val_correlation": float(np.mean(correlations)), **named}
