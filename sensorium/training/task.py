"""What a student learns from: the data alone, or the data and a teacher (see `distillation`).

Shapes: B windows, b windows of one mouse, C channels, T frames, H W pixels, N neurons of one mouse.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sensorium.data.batch import Batch
from sensorium.data.inputs import assemble
from sensorium.model.architecture import AnyModel
from sensorium.training.losses import Loss, Target, weight_per_window, weighted_loss

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
        """Describe the task.

        Args:
            canvas: height and width of the input, pixels.
            mice: number of readouts.
            loss: compares predictions with targets.
        """
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
