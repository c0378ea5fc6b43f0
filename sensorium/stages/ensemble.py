"""Average several experiments: their predictions on disk, or the models of a registered pair."""

from collections.abc import Sequence
from pathlib import Path

from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.files import exclusive_lock
from sensorium.inference.ensemble import average
from sensorium.inference.plan import PredictionJob, Trained, chosen_mice, plan, trained_folds
from sensorium.inference.predictions import Predictions
from sensorium.inference.runner import run_job
from sensorium.inference.sliding import prediction_device
from sensorium.inference.weights import Weights, read_weights
from sensorium.paths import Paths
from sensorium.stages.predict import tell_error
from sensorium.stages.weigh import WEIGHTS_FILE


def run(
    config: Config,
    paths: Paths,
    experiments: Sequence[str],
    split: str,
    pin: Path | None = None,
    weights: Path | None = None,
) -> None:
    """Write data/predictions/<a,b>/<split>: the mean of the experiments, each the mean of its folds.

    Args:
        config: all settings.
        paths: the project.
        experiments: sorted names.
        split: `folds` or a test tier.
        pin: file that names a registered pair; its models are loaded from the registry and predict anew,
            beside the trained folds of other experiments. The weights of the pair stand in it, those of
            other members of the ensemble in the results of the evaluation. None averages the predictions
            on disk.
        weights: file of weights for the predictions on disk; equal weights by default.

    Raises:
        PredictionError: predictions are missing or do not belong together, the weights are of other
            experiments, or another process writes the mean.
        CheckpointError: a fold of an experiment that is not registered is not trained.
        TrackingError: the registry lacks what the pin names, or what it has is damaged.
    """
    folder = paths.predictions(",".join(experiments), split)
    if pin is None:
        chosen = None if weights is None else list(read_weights(weights, experiments).values())
        members = [Predictions.open(paths.predictions(name, split)) for name in experiments]
        stores = [MouseStore.open(paths.store(mouse)) for mouse in config.dataset.mice]
        busy = PredictionError(
            f"{folder}: another process is writing these predictions.", "Wait until it has finished."
        )
        with exclusive_lock(paths.lock(f"ensemble-{folder.parent.name}-{split}"), busy, folder):
            average(members, stores, split, folder, chosen)
        return
    trained, pinned = _registered(config, paths, pin, experiments)
    stores = [MouseStore.open(paths.store(mouse)) for mouse in chosen_mice(config.dataset.mice, split)]
    assignments = plan(paths, stores, split, trained)
    device = prediction_device(config.runtime.accelerator, config.prediction.precision)
    job = PredictionJob(split, assignments, config.window, config.prediction, device, pinned)
    work = paths.state / "predict" / ",".join(experiments) / split
    run_job(job, folder, work, config.runtime.devices)
    tell_error(folder)


def _registered(config: Config, paths: Paths, pin: Path, experiments: Sequence[str]) -> tuple[Trained, Weights | None]:
    """Verified folds of the pair that the pin names, those of other members as they are trained, and the weights."""
    from sensorium.registry import load_pair, pinned_weights

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
