"""Average several experiments: their predictions on disk, or the models of a registered pair."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sensorium.commands.fit_ensemble import WEIGHTS_FILE
from sensorium.commands.options import Experiments, Split, require_choice, select_experiments
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, PredictionError
from sensorium.files import exclusive_lock
from sensorium.inference.ensemble import Weights, average, read_weights
from sensorium.inference.plan import PredictionJob, Trained, chosen_mice, plan
from sensorium.inference.predictions import Predictions
from sensorium.inference.runner import run_job
from sensorium.inference.sliding import prediction_device
from sensorium.mice import SPLITS
from sensorium.paths import Paths
from sensorium.recovery import trained_folds
from sensorium.stages.predict import print_error


def run(
    config: Config,
    paths: Paths,
    experiments: Experiments,
    split: Split,
    pin: Annotated[
        Path | None,
        typer.Option(help="Pin of a registered pair: predict with its models, loaded from the model registry."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="File of ensemble weights, from `sensorium fit-ensemble`. Default: as params.yaml says."),
    ] = None,
) -> None:
    """Average the predictions of several experiments, each of which is the mean of its folds.

    Without `--pin` the predictions on disk are averaged. With it, the models of the registered pair are loaded
    from MLflow's model registry, verified, and predict anew, beside the trained folds of other experiments; the
    weights are those of the pin, or for other ensembles those of the evaluation.

    Raises:
        ConfigError: an experiment or the split does not exist, or the options exclude each other.
        PredictionError: predictions are missing or do not belong together, the weights are of other
            experiments, or another process writes the mean.
        CheckpointError: a fold of an experiment that is not registered is not trained.
        TrackingError: the registry lacks what the pin names, or what it has is damaged.
    """
    if pin is not None and weights is not None:
        raise ConfigError("--weights: a registered pair has its own.", "Omit --pin or --weights.")
    require_choice("split", split, SPLITS)
    names = select_experiments(config, experiments)
    folder = paths.predictions(",".join(names), split)
    if pin is None:
        if weights is None and config.ensemble.weights == "fitted":
            weights = paths.weights(names)
        chosen = None if weights is None else list(read_weights(weights, names).values())
        members = [Predictions.open(paths.predictions(name, split)) for name in names]
        stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
        busy = PredictionError(
            f"{folder}: another process is writing these predictions.", "Wait until it has finished."
        )
        with exclusive_lock(paths.lock(f"ensemble-{folder.parent.name}-{split}"), busy, folder):
            average(members, stores, split, folder, chosen, config.prediction.storage)
        return
    trained, pinned = _registered(config, paths, pin, names)
    stores = [MouseStore(paths.store(mouse)) for mouse in chosen_mice(config.dataset.mice, split)]
    assignments = plan(paths, stores, split, trained)
    device = prediction_device(config.runtime.accelerator, config.prediction.precision)
    job = PredictionJob(split, assignments, config.window, config.prediction, device, pinned)
    work = paths.state / "predict" / ",".join(names) / split
    run_job(job, folder, work, config.runtime.devices, config.runtime.threads)
    print_error(folder)


def _registered(config: Config, paths: Paths, pin: Path, experiments: Sequence[str]) -> tuple[Trained, Weights | None]:
    """Verified folds of the pair that the pin names, those of other members as they are trained, and the weights."""
    from sensorium.registry.pair import load_pair, pinned_weights

    found = load_pair(pin, paths)
    folds = {
        name: {int(folder.name.removeprefix("fold_")): folder for folder in found[name]}
        if name in found
        else trained_folds(config.folds.train.values(), paths, name)
        for name in experiments
    }
    if set(found) == set(experiments):
        return folds, pinned_weights(pin)
    fitted = config.ensemble.weights == "fitted" and set(experiments) == set(config.ensemble.members)
    return folds, read_weights(paths.evaluation / WEIGHTS_FILE, experiments) if fitted else None
