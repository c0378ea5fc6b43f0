"""Fit the weights of an ensemble on out-of-fold predictions, and tell what they gain."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sensorium import files
from sensorium.commands.options import Experiments, select_experiments
from sensorium.config import Config
from sensorium.data.folds import UNLABELLED, Folds
from sensorium.data.store import MouseStore
from sensorium.evaluation.sources import Experiments as Members
from sensorium.evaluation.sources import load_all
from sensorium.evaluation.weights import Fit, fit, gather
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths
from sensorium.tracking.adopted import tell_measured

WEIGHTS_FILE = "weights.json"
"""Weights of the ensemble, among the results of the evaluation."""


def run(
    config: Config,
    paths: Paths,
    experiments: Experiments,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. Default: reports/weights/<experiments>.json.")
    ] = None,
) -> None:
    """Fit an ensemble's weights on out-of-fold predictions, and print their gain by nested folds.

    Raises:
        ConfigError: an experiment does not exist.
        PredictionError: an out-of-fold prediction is missing, of another mouse or shape, or not finite, or
            there are fewer than two folds.
    """
    names = select_experiments(config, experiments)
    output = output or paths.weights(names)
    members = {name: Predictions.open(paths.predictions(name, FOLDS_SPLIT)) for name in names}
    found = fit_weights(config, paths, Folds.load(paths.folds), members)
    files.write_json(output, found.as_json(names))
    tell_gain(names, found)
    tell_measured(
        paths, {"single_trial_correlation/fitted": found.fitted, "single_trial_correlation/equal": found.equal}
    )
    Console().print(f"Wrote {output}.", highlight=False, soft_wrap=True)


def fit_weights(config: Config, paths: Paths, folds: Folds, members: Members) -> Fit:
    """Fit a weight per member on the predictions of all mice."""
    mice = []
    for mouse in track(list(config.dataset.mice), "Fitting weights", console=Console(stderr=True), transient=True):
        store = MouseStore(paths.store(mouse))
        mice.append(gather(store, predicted_folds(config, folds, mouse), partial(load_all, members), config.evaluation))
    return fit(mice)


def predicted_folds(config: Config, folds: Folds, mouse: str) -> NDArray[np.int64]:
    """(trials,) fold of each trial that is predicted out of fold: those of the trained folds."""
    numbers = folds.of(mouse)
    numbers[~np.isin(numbers, list(config.folds.train.values()))] = UNLABELLED
    return numbers


def tell_gain(names: Sequence[str], found: Fit) -> None:
    """Print the weights, a row per experiment, and the score of each fold with weights fitted on the others."""
    columns = {f"fold {fold}": (gain.weights, gain.fitted, gain.equal) for fold, gain in found.folds.items()}
    columns["all"] = (found.weights, found.fitted, found.equal)
    table = Table(title="Weights, and single-trial correlation with weights of the other folds", title_justify="left")
    table.add_column()
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for number, name in enumerate(names):
        table.add_row(name, *(f"{weights[number]:.4f}" for weights, _, _ in columns.values()))
    table.add_section()
    table.add_row("fitted weights", *(f"{fitted:.5f}" for _, fitted, _ in columns.values()))
    table.add_row("equal weights", *(f"{equal:.5f}" for _, _, equal in columns.values()))
    table.add_row("gain", *(f"{fitted - equal:+.5f}" for _, fitted, equal in columns.values()), style="bold")
    Console().print(table)
