"""Draw the report: one HTML page and the figures it holds."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich.console import Console

from sensorium import __version__, files
from sensorium.commands.fit_ensemble import WEIGHTS_FILE
from sensorium.config import Config
from sensorium.data.folds import REPORT, Folds
from sensorium.data.store import MouseStore
from sensorium.errors import DataError, PredictionError
from sensorium.evaluation.sources import ENSEMBLE
from sensorium.evaluation.tables import SINGLE_TRIAL, training_histories
from sensorium.evaluation.weights import EnsembleWeights
from sensorium.inference.ensemble import in_order
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT, short_name
from sensorium.paths import Paths
from sensorium.recovery import later_remedy, remedy
from sensorium.report.figures import draw_all
from sensorium.report.material import Material, traces, trial_to_show
from sensorium.report.page import write_page

_REMEDY = "Type `dvc repro` first, or `sensorium evaluate`."


def run(config: Config, paths: Paths) -> None:
    """Draw the results: one HTML page and its figures, in reports/report.

    Raises:
        PredictionError: nothing is evaluated yet, predictions are missing, or another process writes the report.
        CheckpointError: a fold is not trained.
    """
    material = _gather(config, paths)
    busy = PredictionError(f"{paths.report}: another process is writing the report.", "Wait until it has finished.")
    with files.exclusive_lock(paths.lock("report"), busy, paths.report), files.atomic_folder(paths.report) as partial:
        figures: dict[str, Path] = {}
        for name, figure in draw_all(material, config.seed):
            figures[name] = partial / f"{name}.png"
            figure.savefig(figures[name], metadata={"Software": None})
        write_page(partial / "index.html", material, figures)
    Console().print(f"Wrote {paths.report.relative_to(paths.root) / 'index.html'}.", highlight=False)


def _gather(config: Config, paths: Paths) -> Material:
    predictions = {name: Predictions.open(paths.predictions(name, FOLDS_SPLIT)) for name in config.experiments}
    members = sorted(config.ensemble.members)
    try:
        scores = pd.read_csv(paths.evaluation / "scores.csv")
        neurons = pd.read_parquet(paths.evaluation / "neurons.parquet")
    except FileNotFoundError as fault:
        missing = Path(fault.filename)
        raise PredictionError(f"{missing}: the file does not exist.", remedy(missing, _REMEDY)) from None
    weights = paths.evaluation / WEIGHTS_FILE
    ensemble = EnsembleWeights.load(weights, PredictionError, later_remedy(weights, _REMEDY))
    store = MouseStore(paths.store(next(iter(config.dataset.mice))))
    numbers = Folds.load(paths.folds).of(store.name)
    trial = trial_to_show(store, numbers)
    own = neurons[(neurons["mouse"] == store.name) & (neurons["source"] == ENSEMBLE)][SINGLE_TRIAL].to_numpy()
    fold = None if ensemble.folds is None else ensemble.folds[int(numbers[trial])].weights
    return Material(
        scores,
        neurons,
        files.read_json(paths.folds / REPORT, DataError, later_remedy(paths.folds, "Run `dvc repro folds`.")),
        {name: training_histories(config, paths, name) for name in predictions},
        traces(store, trial, [predictions[name] for name in members], own, in_order(fold, members)),
        f"Mouse {short_name(store.name)}, trial {trial} ({store.tiers[trial]}), mean of {', '.join(members)}",
        config.evaluation.first_frame,
        [*_weights(ensemble), *_facts(config, predictions.values())],
    )


def _weights(ensemble: EnsembleWeights) -> list[tuple[str, str]]:
    """The ensemble's weights and what they gain, where they are fitted."""
    if ensemble.nested is None:
        return []
    weights = ", ".join(f"{name} {weight:.4f}" for name, weight in ensemble.weights.items())
    gain = f"gain over equal weights {ensemble.nested.gain:+.5f}, each fold with the weights of the others"
    return [("weights in the ensemble", f"{weights}; {gain}")]


def _facts(config: Config, members: Iterable[Predictions]) -> list[tuple[str, str]]:
    """Data, weights, settings and code: digests, so that equal inputs give an equal page."""
    recordings: dict[str, str] = {}
    weights: dict[str, set[str]] = {}
    for member in members:
        for part in member.provenance["assignments"]:
            recordings[part["mouse"]] = part["recordings"]
            for experiment, digests in part["weights"].items():
                weights.setdefault(experiment, set()).update(digests)
    first, window = config.evaluation.first_frame, config.window
    settings = {
        "seed": str(config.seed),
        "evaluation": f"frames {first} to {first + config.evaluation.frames - 1}",
        "prediction": f"{config.prediction.precision}, windows of {window.frames} frames at step {window.step}",
        "all settings": files.digest_json(config.model_dump(mode="json", exclude={"runtime", "synthetic"})),
        "code": f"sensorium {__version__}",
    }
    return [
        *((f"recordings of {short_name(mouse)}", digest) for mouse, digest in recordings.items()),
        *((f"weights of {name}", ", ".join(sorted(digests))) for name, digests in weights.items()),
        *settings.items(),
        ("runs", "`make ui` shows the MLflow run of every fold; data/runs/ holds the links"),
    ]
