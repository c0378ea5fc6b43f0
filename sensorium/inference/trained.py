"""Where the trained folds lie."""

from collections.abc import Mapping
from pathlib import Path

from sensorium.config import Config
from sensorium.errors import CheckpointError
from sensorium.paths import Paths
from sensorium.recovery import remedy

Trained = Mapping[str, Mapping[int, Path]]
"""Folders of trained folds, by experiment and fold."""


def trained_folds(config: Config, paths: Paths, experiment: str) -> dict[int, Path]:
    """Folder of every fold that the pipeline trains.

    Raises:
        CheckpointError: one of them is not there.
    """
    found = {fold: paths.fold(experiment, fold) for fold in sorted(config.folds.train.values())}
    for fold, folder in found.items():
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: fold {fold} of {experiment} is not trained.",
                remedy(folder, f"Type `dvc repro train@{experiment}-{fold}`."),
            )
    return found
