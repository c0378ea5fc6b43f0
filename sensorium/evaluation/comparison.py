"""Is one model better than another? Paired differences of correlations, with intervals.

Two questions, two bootstraps:

* `compare`: would it be better on other mice and folds? Scores of one mouse, or of one fold, are
  correlated, so both are resampled (the pigeonhole bootstrap, Owen 2007, https://doi.org/10.1214/07-AOAS122).
* `Videos`: would it be better on other videos, with these mice and folds? Frames of one video, and its
  repeats in all mice, are correlated, so videos are resampled, each with the same weight everywhere
  (the Poisson bootstrap: the weight of a video is drawn from Poisson(1)).

N neurons of one mouse, T frames of a trial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensorium.seeding import generator

Scores = Mapping[str, Mapping[str, float]]
"""A score by mouse and fold."""
_CONFIDENCE = 0.95
_EDGES = ((1 - _CONFIDENCE) / 2, 1 - (1 - _CONFIDENCE) / 2)
_DRAWS = 10_000
_VIDEO_DRAWS = 1000
_BLOCK_NEURONS = 256


@dataclass(frozen=True)
class Interval:
    """A difference, candidate minus reference, and its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `no clear difference`."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no clear difference"

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95% interval {self.low:+.4f} to {self.high:+.4f}): {self.verdict}"


@dataclass(frozen=True)
class Comparison(Interval):
    """Candidate minus reference, mouse by mouse and fold by fold."""

    differences: pd.DataFrame
    """Rows are mice, columns folds; NaN where one of the two has no score."""


def compare(candidate: Scores, reference: Scores) -> Comparison | None:
    """Compare two sets of scores on the mice and folds that both have.

    Returns:
        The comparison; None when they share no mouse and fold.
    """
    mice = [mouse for mouse in candidate if mouse in reference]
    differences = (pd.DataFrame(candidate) - pd.DataFrame(reference))[mice].dropna(how="all").sort_index().T
    if differences.empty:
        return None
    table = differences.to_numpy(np.float64)
    low, high = np.quantile(_bootstrap(table), _EDGES)
    return Comparison(float(np.nanmean(table)), float(low), float(high), differences)


def _bootstrap(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of tables whose rows and columns are drawn with replacement; the same draws every time."""
    mice, folds = table.shape
    random = generator(0, "comparison")
    rows = random.multinomial(mice, np.full(mice, 1 / mice), _DRAWS)
    columns = random.multinomial(folds, np.full(folds, 1 / folds), _DRAWS)
    known = np.isfinite(table)
    weight = np.einsum("dm,mf,df->d", rows, known.astype(float), columns)
    total = np.einsum("dm,mf,df->d", rows, np.where(known, table, 0), columns)
    means: NDArray[np.float64] = total[weight > 0] / weight[weight > 0]
    return means


MouseFold = tuple[str, int]
"""A mouse and a fold."""


class Videos:
    """Sums per video from which the correlations of two models follow, for any weights of the videos."""

    def __init__(self) -> None:
        self._sums: dict[tuple[MouseFold, int], NDArray[np.float64]] = {}
        self._origins: dict[str, NDArray[np.float64]] = {}

    def add(
        self,
        cell: MouseFold,
        video: int,
        target: NDArray[np.floating],
        candidate: NDArray[np.floating],
        reference: NDArray[np.floating],
    ) -> None:
        """Add a trial.

        Args:
            cell: its mouse and fold.
            video: group of the video that it shows; the same in all mice.
            target: (N, T) responses.
            candidate: (N, T) predictions of the one model.
            reference: (N, T) predictions of the other.
        """
        series = np.stack([target, candidate, reference]).astype(np.float64)
        origin = self._origins.setdefault(cell[0], series.mean(2))  # sums about it keep their digits
        x, a, b = series - origin[..., None]
        products = ((x, x), (a, a), (b, b), (x, a), (x, b))
        sums = np.stack(
            [np.full(len(x), x.shape[1], float), x.sum(1), a.sum(1), b.sum(1)]
            + [np.einsum("nt,nt->n", left, right) for left, right in products]
        )
        key = (cell, video)
        self._sums[key] = self._sums[key] + sums if key in self._sums else sums

    def differences(self) -> tuple[dict[MouseFold, Interval], Interval]:
        """Candidate minus reference of every mouse and fold, and their mean over folds, then over mice."""
        videos = {video: number for number, video in enumerate(sorted({video for _, video in self._sums}))}
        drawn = generator(0, "videos").poisson(1.0, (_VIDEO_DRAWS, len(videos))).astype(np.float64)
        weights = np.concatenate([np.ones((1, len(videos))), drawn])  # the first row: the data as they are
        draws = {cell: self._draws(cell, weights, videos) for cell in dict.fromkeys(cell for cell, _ in self._sums)}
        mice = dict.fromkeys(mouse for mouse, _ in draws)
        by_mouse = [_mean_known([draw for (mouse, _), draw in draws.items() if mouse == name]) for name in mice]
        return {cell: _interval(draw) for cell, draw in draws.items()}, _interval(np.mean(by_mouse, axis=0))

    def _draws(self, cell: MouseFold, weights: NDArray[np.float64], videos: Mapping[int, int]) -> NDArray[np.float64]:
        """Mean over neurons of the difference, (1 + draws,)."""
        own = [(videos[video], sums) for (other, video), sums in self._sums.items() if other == cell]
        chosen = weights[:, [number for number, _ in own]]
        stack = np.stack([sums for _, sums in own])  # (videos, sums, N)
        total, neurons = np.zeros(len(weights)), stack.shape[2]
        for first in range(0, neurons, _BLOCK_NEURONS):
            block = stack[:, :, first : first + _BLOCK_NEURONS]
            total += _difference_of_correlations(np.tensordot(chosen, block, axes=1)).sum(1)
        mean: NDArray[np.float64] = np.where(chosen.sum(1) > 0, total / neurons, np.nan)
        return mean


def _mean_known(draws: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over folds; a draw may leave a fold without videos, and then it does not count."""
    known = np.isfinite(draws)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(known, draws, 0).sum(0) / known.sum(0)
    return mean


def _difference_of_correlations(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws, sums, N) to (draws, N); 0 where a series is constant."""
    count, x, a, b, xx, aa, bb, xa, xb = np.moveaxis(sums, 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = xx - x * x / count
        first = (xa - x * a / count) / np.sqrt(spread * (aa - a * a / count))
        second = (xb - x * b / count) / np.sqrt(spread * (bb - b * b / count))
    difference: NDArray[np.float64] = np.where(np.isfinite(first), first, 0) - np.where(np.isfinite(second), second, 0)
    return difference


def _interval(draws: NDArray[np.float64]) -> Interval:
    """The first draw is the estimate, the others are the bootstrap's."""
    low, high = np.nanquantile(draws[1:], _EDGES)
    return Interval(float(draws[0]), float(low), float(high))
