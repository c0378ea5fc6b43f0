"""Learning from the same fold's teacher what no mouse of the data could show (arXiv:1503.02531).

Shapes: B windows, M mice, N neurons of one mouse, T frames.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from sensorium.data.batch import Batch
from sensorium.model.architecture import AnyModel
from sensorium.training.losses import Loss, Target, pair_weights
from sensorium.training.task import Supervised


class Distillation(Supervised):
    """The teacher predicts every readout that has no label, on the same mixed input, in eval mode."""

    def __init__(
        self,
        canvas: tuple[int, int],
        teacher: AnyModel,
        ratio: float,
        autocast: Callable[[], AbstractContextManager[object]],
        loss: Loss,
    ) -> None:
        """Take over a teacher that is already on the student's device.

        Args:
            canvas: height and width of the input, pixels.
            teacher: a trained model of the same mice.
            ratio: share of the loss weight that the teacher's targets have.
            autocast: context of the teacher's arithmetic.
            loss: compares predictions with targets.
        """
        super().__init__(canvas, len(teacher.neurons), loss)
        self.teacher = teacher.eval().fused()
        self.ratio = ratio
        self.autocast = autocast

    def targets(self, batch: Batch, inputs: Tensor) -> list[Target]:
        """Every readout of every window: the label where there is one, else the teacher's prediction."""
        weights = self._weights(batch)
        rows = torch.arange(len(batch), device=inputs.device)
        return [
            Target(mouse, rows, responses, weights[:, mouse])
            for mouse, responses in enumerate(self._responses(batch, inputs))
        ]

    def _weights(self, batch: Batch) -> Tensor:
        labelled = torch.zeros((len(batch), self.mice), dtype=torch.bool, device=batch.mice.device)
        for mouse, own in batch.targets.items():
            labelled[own.rows, mouse] = True
        return pair_weights(labelled, self.ratio)

    @torch.no_grad()
    def _responses(self, batch: Batch, inputs: Tensor) -> list[Tensor]:
        """(B, N, T) float32 of each mouse."""
        with self.autocast():
            features = self.teacher.features(inputs)
            responses = [self.teacher.readout(features, mouse).float() for mouse in range(self.mice)]
        for mouse, own in batch.targets.items():
            responses[mouse][own.rows] = own.responses
        return responses
