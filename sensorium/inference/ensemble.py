"""Average the predictions of several experiments that lie on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sensorium import __version__, files
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.inference.predictions import PROVENANCE_FILE, Predictions, write_prediction
from sensorium.inference.weights import combine


def average(
    members: Sequence[Predictions],
    stores: Sequence[MouseStore],
    split: str,
    folder: Path,
    weights: Sequence[float] | None = None,
) -> None:
    """Write the mean of several experiments' predictions, trial by trial.

    Mice that no member has are left out; a trial that one member has must be in all of them.

    Args:
        members: predictions of one split, one folder per experiment.
        stores: the mice.
        split: for the provenance.
        folder: the final folder; what is there is replaced.
        weights: one weight per member, of sum one; None gives all of them the same weight.

    Raises:
        PredictionError: members differ in their trials, or one is of another mouse or not finite.
    """
    with files.atomic_folder(folder) as partial:
        count = 0
        for store in stores:
            for trial in sorted({trial for member in members for trial in member.trials(store.name)}):
                _check_trial(store, trial, members)
                shape = (store.neurons, int(store.lengths[trial]))
                parts = [member.load(store.name, trial, shape) for member in members]
                write_prediction(partial, store.name, trial, combine(parts, weights))
                count += 1
        if count == 0:
            raise PredictionError(
                f"{folder}: the experiments have no prediction of any mouse of params.yaml.",
                f"Predict them first: `sensorium predict -e <experiment> -s {split}`.",
            )
        provenance: dict[str, Any] = {
            "code_version": __version__,
            "split": split,
            "mean_of": [part.provenance for part in members],
        }
        if weights is not None:
            provenance["weights"] = list(weights)
        files.write_json(partial / PROVENANCE_FILE, provenance)


def _check_trial(store: MouseStore, trial: int, members: Sequence[Predictions]) -> None:
    if trial >= store.trials:
        places = ", ".join(str(member.folder) for member in members)
        raise PredictionError(
            f"{places}: trial {trial} of {store.name} is predicted, but the mouse has {store.trials} trials.",
            "The prediction is of another version of the data: predict again.",
        )
