"""Is one set of scores better than another? Paired over mice and folds, with an interval.

Scores of one mouse, or of one fold, hang together, so neither the mice nor the folds alone are
independent draws: both are resampled (the pigeonhole bootstrap, Owen 2007,
https://doi.org/10.1214/07-AOAS122).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensorium.seeding import generator

Scores = Mapping[str, Mapping[str, float]]
"""A score by mouse and fold."""

CONFIDENCE = 0.95
_DRAWS = 10_000


@dataclass(frozen=True)
class Comparison:
    """Candidate minus reference, mouse by mouse and fold by fold."""

    mice: tuple[str, ...]
    folds: tuple[str, ...]
    differences: NDArray[np.float64]
    """(mice, folds); NaN where one of the two has no score."""
    mean: float
    low: float
    """Lower end of the 95% interval of the mean."""
    high: float

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `no clear difference`."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no clear difference"

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95% interval {self.low:+.4f} to {self.high:+.4f}): {self.verdict}"


def compare(candidate: Scores, reference: Scores) -> Comparison | None:
    """Compare two sets of scores on the mice and folds that both have.

    Returns:
        The comparison; None when they share no mouse and fold.
    """
    mice = tuple(mouse for mouse in candidate if mouse in reference)
    folds = tuple(sorted({fold for mouse in mice for fold in candidate[mouse] if fold in reference[mouse]}))
    if not folds:
        return None
    table = np.array([[_difference(candidate[m], reference[m], fold) for fold in folds] for m in mice])
    draws = _bootstrap(table)
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [edge, 1 - edge])
    return Comparison(mice, folds, table, float(np.nanmean(table)), float(low), float(high))


def _difference(candidate: Mapping[str, float], reference: Mapping[str, float], fold: str) -> float:
    return candidate[fold] - reference[fold] if fold in candidate and fold in reference else np.nan


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
