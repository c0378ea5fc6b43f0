"""Predict a split with the trained folds of one experiment."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from sensorium.commands.options import Experiment, Split, require_choice
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.files import folder_digest, sha256, write_json
from sensorium.inference.plan import PredictionJob, chosen_mice, plan
from sensorium.inference.predictions import PROVENANCE_FILE, Predictions
from sensorium.inference.runner import run_job
from sensorium.inference.sliding import prediction_device
from sensorium.mice import FOLDS_SPLIT, SPLITS
from sensorium.paths import Paths
from sensorium.recovery import trained_folds


def run(
    config: Config,
    paths: Paths,
    experiment: Experiment,
    split: Split,
    dataset: Annotated[
        Literal["new", "old", "all"] | None,
        typer.Option("-d", "--dataset", help="Which mice. Default: all for `folds`, new for a test split."),
    ] = None,
) -> None:
    """Predict a split with an experiment's trained folds, into data/predictions/EXPERIMENT/SPLIT/MOUSE/TRIAL.npy.

    `-s folds` predicts every fold's trials with the fold's own model, which was not trained on them; a test split
    is predicted with the mean of all folds.

    Raises:
        ConfigError: the experiment or the split does not exist.
        CheckpointError: a fold is not trained, damaged, or of other mice.
        PredictionError: nothing to predict, a trial is too short, or predictions are not finite.
    """
    config.experiment(experiment)
    require_choice("split", split, SPLITS)
    stores = [MouseStore(paths.store(mouse)) for mouse in chosen_mice(config.dataset.mice, split, dataset)]
    trained = {experiment: trained_folds(config.folds.train.values(), paths, experiment)}
    assignments = plan(paths, stores, split, trained)
    device = prediction_device(config.runtime.accelerator, config.prediction.precision)
    job = PredictionJob(split, assignments, config.window, config.prediction, device)
    work = paths.state / "predict" / experiment / split
    folder = paths.predictions(experiment, split)
    run_job(job, folder, work, config.runtime.devices, config.runtime.threads)
    if split == FOLDS_SPLIT:
        _write_digests(paths, experiment, folder)
    print_error(folder)


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


def print_error(folder: Path) -> None:
    """Print what mixed precision cost, as measured on one trial per mouse; nothing in float32."""
    provenance = Predictions.open(folder).provenance
    for mouse, error in provenance["relative_error"].items():
        precision = provenance["prediction"]["precision"]
        Console().print(f"{mouse}: {precision} has a relative error of {error:.1e}.", highlight=False, soft_wrap=True)
