"""The weights with which an ensemble averages its experiments, and the file that holds fitted ones."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensorium import files
from sensorium.errors import PredictionError

Weights = Mapping[str, float]
"""Weight by experiment: none is negative, their sum is one."""

_REMEDY = "Fit them: `sensorium weigh -e {}`."
_SUM_ERROR = 1e-6


def combine(parts: Sequence[NDArray[np.float32]], weights: Sequence[float] | None) -> NDArray[np.float32]:
    """Average the predictions of one trial.

    Args:
        parts: (N, L) of each experiment.
        weights: a weight each, of sum one; None gives all of them the same say.
    """
    if len(parts) == 1:
        return parts[0]
    if weights is None:
        mean: NDArray[np.float32] = np.mean(parts, axis=0, dtype=np.float32)
        return mean
    total = np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        total += np.float32(weight) * part
    return total


def in_order(weights: Weights | None, experiments: Iterable[str]) -> list[float] | None:
    """The weights of experiments as a list; None stays None."""
    return None if weights is None else [weights[name] for name in experiments]


def read_weights(path: Path, experiments: Sequence[str]) -> dict[str, float]:
    """Weights of exactly these experiments, as `sensorium weigh` and `sensorium evaluate` write them.

    Raises:
        PredictionError: the file is missing or damaged, or holds the weights of others.
    """
    remedy = _REMEDY.format(",".join(experiments))
    tree = files.read_json(path, PredictionError, remedy)
    found = tree.get("weights") if isinstance(tree, dict) else None
    if not isinstance(found, dict):
        raise PredictionError(f"{path}: there are no weights in it.", remedy)
    if set(found) != set(experiments):
        raise PredictionError(
            f"{path}: weights of {', '.join(sorted(found))}, not of {', '.join(experiments)}.", remedy
        )
    check_weights(found, str(path), remedy)
    return {name: float(found[name]) for name in experiments}


def check_weights(weights: Weights, place: str, remedy: str) -> None:
    """Refuse what is no average.

    Raises:
        PredictionError: a weight is no number or negative, or the sum is not one.
    """
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise PredictionError(f"{place}: {weight!r} is no weight for {name}.", remedy)
    total = sum(weights.values())
    if not math.isclose(total, 1, abs_tol=_SUM_ERROR):
        raise PredictionError(f"{place}: the weights add up to {total:g}, not to 1.", remedy)
