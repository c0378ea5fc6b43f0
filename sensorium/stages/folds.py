"""`sensorium folds`: the fold of every labelled trial."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from sensorium.config import Config, WindowConfig
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths
from sensorium.recordings.folds import write_folds


def run(config: Config, paths: Paths) -> None:
    """Assign every labelled trial to a fold, by what its video shows.

    Raises:
        DataError: a store is missing, a mouse has no trial in some fold, or a trial is too short for the window.
    """
    busy = DataError(f"{paths.folds}: another process is writing the folds.", "Wait until it has finished.")
    with exclusive_lock(paths.lock("folds"), busy, paths.folds):
        stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
        _require_long_trials(stores, config.window)
        report = write_folds(stores, config.folds.count, config.folds.grouping, paths.folds)
    table = Table("mouse", *(f"fold {fold}" for fold in range(config.folds.count)), title="Labelled trials")
    for mouse, counts in report["trials_by_fold"].items():
        table.add_row(mouse, *map(str, counts))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(table)
    split = report["near_identical_pairs_in_different_folds"]
    console.print(
        f"{report['near_identical_pairs']} pairs of near-identical trials; in different folds with the grouping "
        f"exact: {split['exact']}, near: {split['near']}. In force: {report['grouping']}."
    )


def _require_long_trials(stores: Sequence[MouseStore], window: WindowConfig) -> None:
    """Refuse before all training what prediction would refuse after it."""
    needed = window.shortest_trial
    for store in stores:
        short = np.flatnonzero((store.tiers != "none") & (store.lengths < needed))
        if len(short):
            more = f", and {len(short) - 1} more are as short" if len(short) > 1 else ""
            raise DataError(
                f"{store.path}: trial {short[0]} has {store.lengths[short[0]]} frames, the window needs {needed} to "
                f"predict each of them{more}.",
                "Give such trials the tier `none` in the raw mouse's meta/trials/tiers.npy, or shorten the window in "
                "params.yaml.",
            )
