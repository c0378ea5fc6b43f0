"""What a student learns from: the data alone, or the data and a teacher.

Shapes: B windows, b windows of one mouse, M mice, C channels, T frames, H W pixels, N neurons of one mouse.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sensorium.data.inputs import Batch, assemble
from sensorium.model.architecture import AnyModel
from sensorium.training.losses import Loss, Target, pair_weights, weight_per_window, weighted_loss

Readouts = Sequence[tuple[int, Tensor]]
"""Which readouts to compute, and for which rows (b,) of the batch."""
Forward = Callable[[Tensor, Readouts], list[Tensor]]
"""A `Student`, possibly wrapped for mixed precision and several processes."""


class Student(nn.Module):
    """The model in training, called for the readouts that have a target and no others.

    Everything goes through `forward`, because DistributedDataParallel watches nothing else.
    """

    def __init__(self, model: AnyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, readouts: Readouts) -> list[Tensor]:
        """Predict.

        Args:
            inputs: (B, C, T, H, W).
            readouts: the mice, and the rows (b,) of each.

        Returns:
            (b, N, T) for each of `readouts`.
        """
        features = self.model.features(inputs)
        return [self.model.readout(features[rows], mouse) for mouse, rows in readouts]


class Supervised:
    """Learning from recorded responses."""

    ratio: float | None = None
    """Share of the loss weight that a teacher has."""

    def __init__(self, canvas: tuple[int, int], mice: int, loss: Loss) -> None:
        """Describe the task; `canvas` is height and width of the input, pixels, `mice` the number of readouts."""
        self.canvas, self.mice, self._loss = canvas, mice, loss

    def targets(self, batch: Batch, inputs: Tensor) -> list[Target]:  # noqa: ARG002 -- a teacher looks at the inputs
        """What each readout should predict; only pairs of positive weight."""
        return [
            Target(mouse, own.rows, own.responses, torch.ones(len(own.rows), device=own.responses.device))
            for mouse, own in batch.targets.items()
        ]

    def loss(self, student: Forward, batch: Batch, windows: int) -> Tensor:
        """The part of the loss that falls to some of a batch's windows.

        The parts of all chunks and processes add up to the loss of the whole batch, whose weights sum to 1.

        Args:
            student: predicts.
            batch: the windows at hand, on the student's device.
            windows: number of windows in the whole batch.
        """
        inputs = assemble(batch, self.canvas)
        targets = self.targets(batch, inputs)
        predictions = student(inputs, [(target.mouse, target.rows) for target in targets])
        return weighted_loss(self._loss, predictions, targets) / (windows * weight_per_window(self.mice, self.ratio))


class Distillation(Supervised):
    """Learning from the same fold's teacher what no mouse of the data could show (arXiv:1503.02531).

    The teacher predicts every readout that has no label, on the same mixed input, in eval mode.
    """

    def __init__(
        self,
        canvas: tuple[int, int],
        teacher: AnyModel,
        ratio: float,
        autocast: Callable[[], AbstractContextManager[object]],
        loss: Loss,
    ) -> None:
        """Take over a trained teacher of the same mice, which is already on the student's device.

        `ratio` is the share of the loss weight that its targets have, `autocast` the context of its arithmetic.
        """
        super().__init__(canvas, len(teacher.neurons), loss)
        self.teacher = teacher.eval().fused()
        self.ratio = ratio
        self.autocast = autocast

    def targets(self, batch: Batch, inputs: Tensor) -> list[Target]:
        """Every readout of every window: the label where there is one, else the teacher's prediction."""
        labelled = torch.zeros((len(batch), self.mice), dtype=torch.bool, device=batch.mice.device)
        for mouse, own in batch.targets.items():
            labelled[own.rows, mouse] = True
        weights = pair_weights(labelled, self.ratio)
        rows = torch.arange(len(batch), device=inputs.device)
        return [
            Target(mouse, rows, responses, weights[:, mouse])
            for mouse, responses in enumerate(self._responses(batch, inputs))
        ]

    @torch.no_grad()
    def _responses(self, batch: Batch, inputs: Tensor) -> list[Tensor]:
        """(B, N, T) float32 of each mouse."""
        with self.autocast():
            features = self.teacher.features(inputs)
            responses = [self.teacher.readout(features, mouse).float() for mouse in range(self.mice)]
        for mouse, own in batch.targets.items():
            responses[mouse][own.rows] = own.responses
        return responses
