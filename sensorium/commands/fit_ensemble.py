"""Fit the weights of an ensemble on out-of-fold predictions, and print what they gain."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from sensorium.commands.options import Experiments, select_experiments
from sensorium.config import Config
from sensorium.data.folds import UNLABELLED, Folds
from sensorium.data.store import MouseStore
from sensorium.evaluation.sources import Experiments as Members
from sensorium.evaluation.sources import load_all
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.evaluation.weights import EnsembleWeights, Gain, fit, gather
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths
from sensorium.tracking.project_run import log_results

WEIGHTS_FILE = "weights.json"
"""Weights of the ensemble, among the results of the evaluation."""


def run(
    config: Config,
    paths: Paths,
    experiments: Experiments,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. Default: reports/weights/EXPERIMENTS.json.")
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
    found.save(output)
    nested = print_gain(found)
    log_results(paths, {f"{SINGLE_TRIAL}/fitted": nested.fitted, f"{SINGLE_TRIAL}/equal": nested.equal})
    Console().print(f"Wrote {output}.", highlight=False, soft_wrap=True)


def fit_weights(config: Config, paths: Paths, folds: Folds, members: Members) -> EnsembleWeights:
    """Fit a weight per member on the predictions of all mice."""
    mice = []
    for mouse in track(list(config.dataset.mice), "Fitting weights", console=Console(stderr=True), transient=True):
        store = MouseStore(paths.store(mouse))
        mice.append(gather(store, predicted_folds(config, folds, mouse), partial(load_all, members), config.evaluation))
    return fit(mice, list(members))


def predicted_folds(config: Config, folds: Folds, mouse: str) -> NDArray[np.int64]:
    """(trials,) fold of each trial that is predicted out of fold: those of the trained folds."""
    numbers = folds.of(mouse)
    numbers[~np.isin(numbers, list(config.folds.train.values()))] = UNLABELLED
    return numbers


def print_gain(found: EnsembleWeights) -> Gain:
    """Print fitted weights, one row per experiment, and the score of each fold with weights fitted on the others."""
    assert found.nested is not None
    assert found.folds is not None
    columns = [(gain.weights, gain) for gain in found.folds.values()] + [(found.weights, found.nested)]
    headings = (*(f"fold {fold}" for fold in found.folds), "all")
    table = Table(
        "",
        *(Column(heading, justify="right", no_wrap=True) for heading in headings),
        title="Weights, and single-trial correlation with weights of the other folds",
        title_justify="left",
    )
    for name in found.weights:
        table.add_row(name, *(f"{weights[name]:.4f}" for weights, _ in columns))
    table.add_section()
    table.add_row("fitted weights", *(f"{scores.fitted:.5f}" for _, scores in columns))
    table.add_row("equal weights", *(f"{scores.equal:.5f}" for _, scores in columns))
    table.add_row("gain", *(f"{scores.fitted - scores.equal:+.5f}" for _, scores in columns), style="bold")
    Console().print(table)
    return found.nested
