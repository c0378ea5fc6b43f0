"""Score the out-of-fold predictions of all experiments and of their ensemble against the noise ceiling."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import track

from sensorium import files
from sensorium.commands.fit_ensemble import WEIGHTS_FILE, fit_weights, predicted_folds, print_gain
from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.evaluation.scores import MouseScores, score_mouse
from sensorium.evaluation.sources import ENSEMBLE, Experiments, OutOfFold, means
from sensorium.evaluation.tables import (
    SINGLE_TRIAL,
    by_mouse,
    histogram,
    learning_curves,
    neuron_table,
    score_table,
    summary,
    training_histories,
)
from sensorium.evaluation.weights import EnsembleWeights
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths

_DIGITS = "%.6f"
_TABLES = ("scores.csv", "plots/mice.csv", "plots/neurons.csv", "plots/training.csv")
_OUTPUTS = (*_TABLES, "neurons.parquet", WEIGHTS_FILE, "metrics.json", "overall.json")


def run(config: Config, paths: Paths) -> None:
    """Score the out-of-fold predictions of all experiments and of their ensemble.

    Writes scores, ensemble weights and the data of the plots to reports/evaluation.

    Raises:
        PredictionError: a prediction is missing, of another mouse or shape, or not finite, or another process
            writes the scores.
        DataError: stores or folds are missing or damaged.
        CheckpointError: a fold is not trained.
    """
    experiments = {name: Predictions.open(paths.predictions(name, FOLDS_SPLIT)) for name in config.experiments}
    folds = Folds.load(paths.folds)
    sources, weights = _weighted(config, paths, folds, experiments)
    mice = [
        _score(config, paths, mouse, folds, sources)
        for mouse in track(list(config.dataset.mice), "Scoring mice", console=Console(stderr=True), transient=True)
    ]
    curves = learning_curves({name: training_histories(config, paths, name) for name in experiments})
    busy = PredictionError(f"{paths.evaluation}: another process is writing the scores.", "Wait until it has finished.")
    outputs = [paths.evaluation / name for name in _OUTPUTS]
    with files.exclusive_lock(paths.lock("evaluation"), busy, *outputs):
        _write(mice, curves, weights, paths.evaluation)
        _forget_removed(config, paths)


def _forget_removed(config: Config, paths: Paths) -> None:
    """Remove the digests of experiments that params.yaml no longer has: DVC would still see them as an input."""
    for path in paths.out_of_fold.glob("*.json"):
        if path.stem not in config.experiments:
            path.unlink()


def _weighted(
    config: Config, paths: Paths, folds: Folds, experiments: Experiments
) -> tuple[OutOfFold, EnsembleWeights]:
    """What is scored, with the ensemble's weights, and the file of weights."""
    averaged = means(config.ensemble, config.registry)
    members = {name: experiments[name] for name in averaged[ENSEMBLE]}
    trained = {name: _trained(name, member) for name, member in members.items()}
    if config.ensemble.weights == "equal":
        equal = EnsembleWeights(method="equal", weights=dict.fromkeys(members, 1 / len(members)), trained=trained)
        return OutOfFold(experiments, averaged), equal
    found = fit_weights(config, paths, folds, members)
    print_gain(found)
    gains = found.folds or {}

    def weights(mouse: str, trial: int) -> Sequence[float]:
        """Those fitted without the fold of the trial."""
        return list(gains[int(folds.of(mouse)[trial])].weights.values())

    return OutOfFold(experiments, averaged, weights), found.model_copy(update={"trained": trained})


def _trained(name: str, member: Predictions) -> str:
    """Digest of the weights that made the predictions of an experiment.

    The stage `ensemble` of dvc.yaml, which cannot list the folders of any number of members, depends on the
    file of weights and thereby on the members alone.
    """
    return files.digest_json([part["weights"][name] for part in member.provenance["assignments"]])


def _score(config: Config, paths: Paths, mouse: str, folds: Folds, sources: OutOfFold) -> MouseScores:
    store = MouseStore(paths.store(mouse))
    return score_mouse(
        store, predicted_folds(config, folds, mouse), folds.group(mouse), sources.load, config.evaluation
    )


def _write(mice: list[MouseScores], curves: pd.DataFrame, weights: EnsembleWeights, folder: Path) -> None:
    table, neurons = score_table(mice), neuron_table(mice)
    for name, rows in zip(_TABLES, (table, by_mouse(table), histogram(neurons), curves), strict=True):
        with files.atomic_file(folder / name) as partial:
            rows.to_csv(partial, index=False, float_format=_DIGITS)
    with files.atomic_file(folder / "neurons.parquet") as partial:
        neurons.to_parquet(partial, index=False)
    weights.save(folder / WEIGHTS_FILE)
    metrics = summary(table)
    files.write_json(folder / "metrics.json", metrics)
    files.write_json(folder / "overall.json", metrics[SINGLE_TRIAL])  # one number per source: a row of `dvc exp show`
