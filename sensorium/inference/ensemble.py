"""The mean of several experiments' predictions, and the weights with which it is taken."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium import __version__, files
from sensorium.config import Storage
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.inference.predictions import Predictions, write_prediction, write_provenance

Weights = Mapping[str, float]
"""Weight by experiment: none is negative, their sum is one."""
_REMEDY = "Fit them: `sensorium fit-ensemble -e {}`."
_SUM_ERROR = 1e-6


def combine(parts: Sequence[NDArray[np.float32]], weights: Sequence[float] | None) -> NDArray[np.float32]:
    """Average the predictions of one trial.

    Args:
        parts: (N, L) of each experiment.
        weights: a weight each, of sum one; None gives all of them the same weight.
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
    """Weights of exactly these experiments, as `sensorium fit-ensemble` and `sensorium evaluate` write them.

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


def average(
    members: Sequence[Predictions],
    stores: Sequence[MouseStore],
    split: str,
    folder: Path,
    weights: Sequence[float] | None = None,
    storage: Storage = "float32",
) -> None:
    """Write the mean of several experiments' predictions, trial by trial.

    Mice that no member has are left out; a trial that one member has must be in all of them.

    Args:
        members: predictions of one split, one folder per experiment.
        stores: the mice.
        split: for the provenance.
        folder: the final folder; what is there is replaced.
        weights: one weight per member, of sum one; None gives all of them the same weight.
        storage: type on disk.

    Raises:
        PredictionError: members differ in their trials, or one is of another mouse or not finite.
    """
    with files.atomic_folder(folder) as partial:
        count = 0
        for store in stores:
            for trial in sorted({trial for member in members for trial in member.trials(store.name)}):
                if trial >= store.trials:
                    places = ", ".join(str(member.folder) for member in members)
                    raise PredictionError(
                        f"{places}: trial {trial} of {store.name} is predicted, but it has {store.trials} trials.",
                        "The prediction is of another version of the data: predict again.",
                    )
                shape = (store.neurons, int(store.lengths[trial]))
                parts = [member.load(store.name, trial, shape) for member in members]
                write_prediction(partial, store.name, trial, combine(parts, weights), storage)
                count += 1
        if count == 0:
            raise PredictionError(
                f"{folder}: the experiments have no prediction of any mouse of params.yaml.",
                f"Predict them first: `sensorium predict -e <experiment> -s {split}`.",
            )
        means: dict[str, Any] = {"mean_of": [part.provenance for part in members]}
        means |= {} if weights is None else {"weights": list(weights)}
        write_provenance(partial, {"code_version": __version__, "split": split, **means})
