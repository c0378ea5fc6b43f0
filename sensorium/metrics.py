"""Correlation along time, in one pass and in a stream, and the competition's response normalisation.

Definitions: the Sensorium 2023 competition (arXiv:2305.19654) and its published winning solution.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
STD_EPSILON = 1e-8
"""Added to both standard deviations, as published."""
PRECISION_FLOOR = 0.01
"""Smallest standard deviation that normalisation trusts, over the mean of all."""
_CONSTANT_VARIANCE = 1e-24  # variance over mean square below which a series is constant up to float64 rounding
_BLOCK_ELEMENTS = 1 << 16
"""Elements of a block of all series that is reduced at once: float64 temporaries stay in the CPU's cache."""


def correlation(y1: NDArray[np.floating], y2: NDArray[np.floating], axis: int = -1) -> FloatArray:
    """Correlation along one axis: the mean product of the z-scores.

    Args:
        y1: any shape.
        y2: the same shape.
        axis: the axis of time.

    Returns:
        The shape without `axis`; 0 for a constant series, NaN where either holds a NaN.
    """
    scores = [(y - y.mean(axis, keepdims=True)) / (y.std(axis, keepdims=True) + STD_EPSILON) for y in (y1, y2)]
    return np.asarray((scores[0] * scores[1]).mean(axis), np.float64)


def response_precision(std: NDArray[np.floating]) -> FloatArray:
    """What the competition multiplies responses and predictions by.

    Computed per neuron and frame, as the competition's test server expects, although one value per
    neuron was meant: 1 / std, where the std is at most 1 % of the mean of all 1 / (1 % of that mean).

    Args:
        std: (N, L) standard deviation over trials, statistics/responses/all/std.npy; its padded tail is NaN.

    Returns:
        (N, L), finite everywhere unless every std is zero or NaN.
    """
    floor = PRECISION_FLOOR * np.nanmean(std)
    return np.asarray(1.0 / np.where(std > floor, std, floor), np.float64)


class StreamingCorrelation:
    """`correlation` of each neuron over series that arrive piece by piece.

    Holds five numbers per neuron, however many frames pass. Pieces are reduced about their own mean
    and merged by the pairwise update of Chan, Golub and LeVeque (1983,
    https://doi.org/10.1080/00031305.1983.10483115), which does not cancel where the mean is large.
    """

    def __init__(self, neurons: int) -> None:
        self.neurons = neurons
        self.frames = 0
        self._mean = np.zeros((2, neurons))
        self._moments = np.zeros((3, neurons))  # sums of squares of either, and of products, about the means

    @classmethod
    def of(cls, frames: int, mean: FloatArray, moments: FloatArray) -> Self:
        """A stream that has seen some frames.

        Args:
            frames: how many.
            mean: (2, N) of targets and predictions.
            moments: (3, N) sums of squares of either, and of products, about the means.
        """
        stream = cls(mean.shape[1])
        stream.frames, stream._mean, stream._moments = frames, mean, moments
        return stream

    def update(self, target: NDArray[np.floating], prediction: NDArray[np.floating]) -> None:
        """Append frames (N, T) of target and prediction."""
        update_together([self], target, [prediction])

    def merge(self, other: Self) -> None:
        """Append the frames that another stream of the same neurons has seen."""
        assert other.neurons == self.neurons, f"{other.neurons} neurons instead of {self.neurons}"
        if other.frames:
            self.append(other.frames, other._mean, other._moments)

    def append(self, frames: int, mean: FloatArray, moments: FloatArray) -> None:
        """Append frames by what `of` takes."""
        total = self.frames + frames
        shift = mean - self._mean
        cross = np.stack([shift[0] ** 2, shift[1] ** 2, shift[0] * shift[1]])
        self._moments += moments + cross * (self.frames * frames / total)
        self._mean += shift * (frames / total)
        self.frames = total

    def undefined(self) -> NDArray[np.bool_]:
        """(N,) whether a neuron has no correlation: a constant or not finite target or prediction, or no frames."""
        scale = np.maximum(self._mean**2, np.finfo(np.float64).tiny)
        varies = self._moments[:2] > _CONSTANT_VARIANCE * self.frames * scale
        return np.asarray(~(varies.all(0) & np.isfinite(self._moments).all(0)))

    def correlation(self) -> FloatArray:
        """(N,) correlation of each neuron; 0 where it is undefined, as the competition counts it."""
        undefined = self.undefined()
        square_1, square_2, product = np.where(undefined, 0.0, self._moments) / max(self.frames, 1)
        return np.asarray(product / ((np.sqrt(square_1) + STD_EPSILON) * (np.sqrt(square_2) + STD_EPSILON)), np.float64)


def update_together(
    streams: Sequence[StreamingCorrelation],
    target: NDArray[np.floating],
    predictions: Sequence[NDArray[np.floating]],
    scale: NDArray[np.floating] | None = None,
) -> None:
    """Append frames of one target and several predictions, one stream each; the target is reduced once.

    Args:
        streams: one per prediction.
        target: (N, T).
        predictions: (N, T) each.
        scale: (N, T) multiplies all of them.
    """
    if target.shape[1] == 0:
        return
    mean, products = reduce_together([target, *predictions], scale)
    for number, stream in enumerate(streams, 1):
        assert len(target) == stream.neurons, f"{len(target)} neurons instead of {stream.neurons}"
        pairs = products[:, 0, 0], products[:, number, number], products[:, 0, number]
        stream.append(target.shape[1], mean[:, [0, number]].T, np.stack(pairs))


def reduce_together(
    series: Sequence[NDArray[np.floating]], scale: NDArray[np.floating] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Means (N, S), and sums of products about the means (N, S, S), of S series (N, T), times a scale (N, T)."""
    neurons, frames = series[0].shape
    mean, products = np.empty((neurons, len(series))), np.empty((neurons, len(series), len(series)))
    rows = max(1, _BLOCK_ELEMENTS // (frames * len(series)))
    for start in range(0, neurons, rows):
        block = slice(start, start + rows)
        values = np.empty((len(series[0][block]), len(series), frames))
        for number, part in enumerate(series):
            assert part.shape == (neurons, frames), f"shape {part.shape} instead of {(neurons, frames)}"
            values[:, number] = part[block]
        if scale is not None:
            values *= scale[block, None]
        mean[block] = values.mean(2)
        values -= mean[block, :, None]
        products[block] = values @ values.transpose(0, 2, 1)
    return mean, products
