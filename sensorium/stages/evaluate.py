"""Score the out-of-fold predictions of teacher, student and their ensemble against the noise ceiling."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import track

from sensorium import files
from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.evaluation import STUDENT, TEACHER, MouseScores, OutOfFold, score_mouse
from sensorium.evaluation.tables import (
    bars,
    histogram,
    learning_curve,
    neuron_table,
    score_table,
    summary,
    training_histories,
)
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths
from sensorium.stages.weigh import WEIGHTS_FILE, fit_weights, predicted_folds, tell_gain

_DIGITS = "%.6f"
_PLOTS = ("plots/mice.csv", "plots/neurons.csv", "plots/training.csv")
_OUTPUTS = ("scores.csv", "neurons.parquet", *_PLOTS, WEIGHTS_FILE, "metrics.json", "overall.json")


def run(config: Config, paths: Paths) -> None:
    """Write scores, weights of the ensemble and the data of the plots to reports/evaluation.

    Args:
        config: all settings.
        paths: the project.

    Raises:
        PredictionError: a prediction is missing, of another mouse or shape, or not finite, or another process
            writes the scores.
        DataError: stores or folds are missing or damaged.
        CheckpointError: a fold is not trained.
    """
    roles = {TEACHER: config.registry.teacher, STUDENT: config.registry.student}
    members = {role: Predictions.open(paths.predictions(name, FOLDS_SPLIT)) for role, name in roles.items()}
    folds = Folds.load(paths.folds)
    sources, weights = _weighted(config, paths, folds, OutOfFold(members))
    mice = [
        _score(config, paths, mouse, folds, sources)
        for mouse in track(list(config.dataset.mice), "Scoring mice", console=Console(stderr=True), transient=True)
    ]
    curves = {role: learning_curve(training_histories(config, paths, name)) for role, name in roles.items()}
    busy = PredictionError(f"{paths.evaluation}: another process is writing the scores.", "Wait until it has finished.")
    outputs = [paths.evaluation / name for name in _OUTPUTS]
    with files.sole_writer(paths.lock("evaluation"), busy, *outputs):
        _write(mice, curves, weights, paths.evaluation)
        _forget_removed(config, paths)


def _forget_removed(config: Config, paths: Paths) -> None:
    """Remove the digests of experiments that params.yaml no longer has: DVC would go on to see them as an input."""
    for path in paths.out_of_fold.glob("*.json"):
        if path.stem not in config.experiments:
            path.unlink()


def _weighted(config: Config, paths: Paths, folds: Folds, sources: OutOfFold) -> tuple[OutOfFold, dict[str, Any]]:
    """The sources with the ensemble's weights, and what the file of weights holds."""
    names = [config.registry.teacher, config.registry.student]
    if config.ensemble.weights == "equal":
        return sources, {"method": "equal", "weights": dict.fromkeys(names, 1 / len(set(names)))}
    found = fit_weights(config, paths, folds, sources)
    tell_gain(names, found)

    def weights(mouse: str, trial: int) -> list[float]:
        """Those fitted without the fold of the trial."""
        chosen: list[float] = found.folds[int(folds.of(mouse)[trial])].weights.tolist()
        return chosen

    return replace(sources, weights=weights), found.as_json(names)


def _score(config: Config, paths: Paths, mouse: str, folds: Folds, sources: OutOfFold) -> MouseScores:
    store = MouseStore.open(paths.store(mouse))
    return score_mouse(
        store, predicted_folds(config, folds, mouse), folds.group(mouse), sources.load, config.evaluation
    )


def _write(mice: list[MouseScores], curves: dict[str, pd.Series], weights: dict[str, Any], folder: Path) -> None:
    table, neurons = score_table(mice), neuron_table(mice)
    with files.atomic_file(folder / "scores.csv") as partial:
        table.to_csv(partial, index=False, float_format=_DIGITS)
    with files.atomic_file(folder / "neurons.parquet") as partial:
        neurons.to_parquet(partial, index=False)
    with files.atomic_file(folder / "plots" / "mice.csv") as partial:
        bars(table).to_csv(partial, index=False, float_format=_DIGITS)
    with files.atomic_file(folder / "plots" / "neurons.csv") as partial:
        histogram(neurons).to_csv(partial, index=False, float_format=_DIGITS)
    with files.atomic_file(folder / "plots" / "training.csv") as partial:
        pd.DataFrame(curves).to_csv(partial, index_label="epoch", float_format=_DIGITS)
    files.write_json(folder / WEIGHTS_FILE, weights)
    metrics = summary(table)
    files.write_json(folder / "metrics.json", metrics)
    overall = {name: scores for name, scores in metrics.items() if name != "mice"}
    files.write_json(folder / "overall.json", overall)  # what fits the width of `dvc metrics show`
