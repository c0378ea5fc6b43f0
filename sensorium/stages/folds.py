"""`sensorium folds`: the fold of every labelled trial."""

from rich.console import Console
from rich.table import Table

from sensorium.config import Config
from sensorium.data.folds import write_folds
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.files import sole_writer
from sensorium.paths import Paths


def run(config: Config, paths: Paths) -> None:
    """Write the folds of all mice, and print how many trials each has.

    Raises:
        DataError: a store is missing, or a mouse has no trial in some fold.
    """
    busy = DataError(f"{paths.folds}: another process is writing the folds.", "Wait until it has finished.")
    with sole_writer(paths.lock("folds"), busy, paths.folds):
        stores = [MouseStore.open(paths.store(mouse)) for mouse in config.dataset.mice]
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
