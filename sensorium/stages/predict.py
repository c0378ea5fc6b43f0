"""Predict a split with the trained folds of one experiment."""

from pathlib import Path

from rich.console import Console

from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.files import folder_digest, sha256, write_json
from sensorium.inference.plan import Choice, PredictionJob, chosen_mice, plan, trained_folds
from sensorium.inference.predictions import PROVENANCE_FILE, Predictions
from sensorium.inference.runner import run_job
from sensorium.inference.sliding import prediction_device
from sensorium.mice import FOLDS_SPLIT
from sensorium.paths import Paths


def run(config: Config, paths: Paths, experiment: str, split: str, choice: Choice | None = None) -> None:
    """Write data/predictions/<experiment>/<split>/<mouse>/<trial>.npy.

    Args:
        config: all settings.
        paths: the project.
        experiment: one experiment of params.yaml.
        split: `folds`: each fold's model predicts the trials of its fold, which it has not learnt from;
            a test tier: the mean of all folds predicts the trials of the tier.
        choice: which mice; by default all for `folds`, and for a test tier the new ones, whose responses
            are withheld.

    Raises:
        CheckpointError: a fold is not trained, damaged, or of other mice.
        PredictionError: nothing to predict, a trial is too short, or predictions are not finite.
    """
    stores = [MouseStore.open(paths.store(mouse)) for mouse in chosen_mice(config.dataset.mice, split, choice)]
    trained = {experiment: trained_folds(config.folds.train.values(), paths, experiment)}
    assignments = plan(paths, stores, split, trained)
    device = prediction_device(config.runtime.accelerator, config.prediction.precision)
    job = PredictionJob(split, assignments, config.window, config.prediction, device)
    work = paths.state / "predict" / experiment / split
    folder = paths.predictions(experiment, split)
    run_job(job, folder, work, config.runtime.devices)
    if split == FOLDS_SPLIT:
        _write_digests(paths, experiment, folder)
    tell_error(folder)


def _write_digests(paths: Paths, experiment: str, folder: Path) -> None:
    """Write the file through which stages that need all experiments depend on these predictions.

    dvc.yaml cannot list a number of dependencies that params.yaml decides, but it can name the folder of these files.
    """
    mice = sorted(path for path in folder.iterdir() if path.is_dir())
    digests = {
        "experiment": experiment,
        "folds": {path.name: folder_digest(path) for path in sorted(paths.experiment(experiment).glob("fold_*"))},
        "predictions": {mouse.name: folder_digest(mouse) for mouse in mice},
        "provenance": sha256(folder / PROVENANCE_FILE),
    }
    write_json(paths.out_of_fold / f"{experiment}.json", digests)


def tell_error(folder: Path) -> None:
    """Print what mixed precision cost, as measured on one trial a mouse; nothing in float32."""
    provenance = Predictions.open(folder).provenance
    for mouse, error in provenance["relative_error"].items():
        precision = provenance["prediction"]["precision"]
        Console().print(f"{mouse}: {precision} has a relative error of {error:.1e}.", highlight=False, soft_wrap=True)
