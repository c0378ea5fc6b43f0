"""Losses of compact targets, and the weights of labelled and distilled pairs.

Shapes: B windows, M mice, b windows of one mouse, N neurons of that mouse, T frames.
A pair is one window with one mouse's readout. Only pairs of positive weight are held, as `Target`s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, poisson_nll_loss

EPSILON = 1e-8
"""Added to the prediction inside the logarithm, as published."""


@dataclass(frozen=True)
class Target:
    """What one readout should predict."""

    mouse: int
    """Index of the readout."""
    rows: Tensor
    """(b,) int64, windows of the batch."""
    responses: Tensor
    """(b, N, T) float32, non-negative."""
    weights: Tensor
    """(b,) float32, positive; normalised by whoever knows the whole batch."""


def pair_weights(labelled: Tensor, ratio: float | None) -> Tensor:
    """Weight of every pair before normalisation.

    Labelled pairs weigh 1. The unlabelled share ratio / (1 - ratio) of the labelled pairs' sum equally, so
    that after normalisation a teacher's targets have the share `ratio` of the loss (arXiv:1503.02531).

    Args:
        labelled: (B, M) bool, whether the window's responses of that mouse are data.
        ratio: share of the teacher's targets; None without a teacher.

    Returns:
        (B, M) float32.
    """
    if ratio is None:
        return labelled.float()
    unlabelled = (~labelled).sum().clamp(min=1)
    share = ratio / (1.0 - ratio) * labelled.sum() / unlabelled
    return torch.where(labelled, 1.0, share.float())


def weight_per_window(mice: int, ratio: float | None) -> float:
    """Sum of `pair_weights` over a batch whose windows are labelled for one mouse each, per window.

    It depends on neither the batch nor its division, so that every process and every chunk can
    normalise by the whole batch without asking the others.
    """
    return 1.0 if ratio is None or mice == 1 else 1.0 / (1.0 - ratio)


class Loss(Protocol):
    """Compares predicted with recorded responses, value by value.

    To add one, write a function like this, add it to `LOSSES`, and its name to `loss` of
    `sensorium.config.TrainingConfig`:

    Examples:
        >>> def absolute_error(prediction: Tensor, responses: Tensor) -> Tensor:
        ...     return (prediction - responses).abs()
        >>> loss: Loss = absolute_error
        >>> target = Target(mouse=0, rows=torch.tensor([0]), responses=torch.ones(1, 2, 3), weights=torch.ones(1))
        >>> weighted_loss(loss, [torch.zeros(1, 2, 3)], [target])
        tensor(6.)
    """

    def __call__(self, prediction: Tensor, responses: Tensor) -> Tensor:
        """Loss of every value.

        Args:
            prediction: (b, N, T) float32, positive.
            responses: (b, N, T) float32, non-negative.

        Returns:
            (b, N, T) float32.
        """
        ...


def poisson(prediction: Tensor, responses: Tensor) -> Tensor:
    """Poisson negative log-likelihood without its constant; see `Loss`."""
    return poisson_nll_loss(prediction, responses, log_input=False, full=False, eps=EPSILON, reduction="none")


def squared_error(prediction: Tensor, responses: Tensor) -> Tensor:
    """Squared difference; see `Loss`."""
    return mse_loss(prediction, responses, reduction="none")


LOSSES: dict[str, Loss] = {"poisson": poisson, "mse": squared_error}
"""By the name that the settings use."""


def weighted_loss(loss: Loss, predictions: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
    """A loss summed over neurons and frames.

    Args:
        loss: compares value by value.
        predictions: (b, N, T) for each target, positive.
        targets: what to predict, and each pair's weight.

    Returns:
        The weighted sum over pairs; divide by the sum of the whole batch's weights.
    """
    total = predictions[0].new_zeros((), dtype=torch.float32)
    for prediction, target in zip(predictions, targets, strict=True):
        total = total + loss(prediction.float(), target.responses).sum(dim=(1, 2)) @ target.weights
    return total
