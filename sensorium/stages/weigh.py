"""Fit the weights of an ensemble on out-of-fold predictions, and tell what they gain."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sensorium import files
from sensorium.config import Config
from sensorium.data.folds import UNLABELLED, Folds
from sensorium.data.store import MouseStore
from sensorium.evaluation.sources import OutOfFold
from sensorium.evaluation.weights import Fit, fit, gather
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths
from sensorium.tracking.adopted import tell_measured

WEIGHTS_FILE = "weights.json"
"""Weights of the ensemble of teacher and student, among the results of the evaluation."""


def run(config: Config, paths: Paths, experiments: Sequence[str], output: Path) -> None:
    """Write the weights of any experiments, and print their gain.

    Args:
        config: all settings.
        paths: the project.
        experiments: sorted names.
        output: the file to write.

    Raises:
        PredictionError: an out-of-fold prediction is missing, of another mouse or shape, or not finite, or
            there are fewer than two folds.
    """
    members = {name: Predictions.open(paths.predictions(name, FOLDS_SPLIT)) for name in experiments}
    found = fit_weights(config, paths, Folds.load(paths.folds), OutOfFold(members))
    files.write_json(output, found.as_json(experiments))
    tell_gain(experiments, found)
    tell_measured(
        paths, {"single_trial_correlation/fitted": found.fitted, "single_trial_correlation/equal": found.equal}
    )
    Console().print(f"Wrote {output}.", highlight=False, soft_wrap=True)


def fit_weights(config: Config, paths: Paths, folds: Folds, sources: OutOfFold) -> Fit:
    """Fit a weight a member on the predictions of all mice."""
    mice = []
    for mouse in track(list(config.dataset.mice), "Fitting weights", console=Console(stderr=True), transient=True):
        store = MouseStore.open(paths.store(mouse))
        mice.append(gather(store, predicted_folds(config, folds, mouse), sources.load_members, config.evaluation))
    return fit(mice)


def predicted_folds(config: Config, folds: Folds, mouse: str) -> NDArray[np.int64]:
    """(trials,) fold of each trial that is predicted out of fold: those of the trained folds."""
    numbers = folds.of(mouse)
    numbers[~np.isin(numbers, list(config.folds.train.values()))] = UNLABELLED
    return numbers


def tell_gain(names: Sequence[str], found: Fit) -> None:
    """Print the weights, and the score of each fold with weights fitted on the others."""
    table = Table(title="Weights, and single-trial correlation with weights of the other folds", title_justify="left")
    for heading in ("fold", *names, "fitted", "equal", "gain"):
        table.add_column(heading, justify="left" if heading == "fold" else "right")
    for fold, gain in found.folds.items():
        table.add_row(str(fold), *_cells(gain.weights, gain.fitted, gain.equal))
    table.add_section()
    table.add_row("all", *_cells(found.weights, found.fitted, found.equal), style="bold")
    Console().print(table)


def _cells(weights: NDArray[np.float64], fitted: float, equal: float) -> list[str]:
    return [*(f"{weight:.4f}" for weight in weights), f"{fitted:.5f}", f"{equal:.5f}", f"{fitted - equal:+.5f}"]
