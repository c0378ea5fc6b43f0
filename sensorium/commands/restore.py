"""`sensorium registry restore`: rebuild a lost or fresh store from DVC's files: runs, models, scores."""

import csv
from pathlib import Path

from rich.console import Console

from sensorium.commands.project import measured
from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.lineage import fingerprint
from sensorium.model.checkpoint import CONFIG, HISTORY, read_info
from sensorium.paths import Paths
from sensorium.registry import restore_pair
from sensorium.tracking.database import set_aside
from sensorium.tracking.delivery import deliver_leftovers
from sensorium.tracking.links import RunLink, find_run, run_links
from sensorium.tracking.recorder import Past, record_past
from sensorium.tracking.store import Store, refusals_told


def run(config: Config, paths: Paths) -> None:
    """Register the trained folds again in a tracking store that was lost, emptied or damaged.

    The pin stays as it is: it holds by digest, also where the store counts versions anew. Links to runs
    stay as they are too: a run that replaces a lost one is found by its fingerprint.

    Raises:
        TrackingError: folds or scores are missing, or are not those of the pin.
    """
    store = Store.of(paths)
    _make_room(store)
    deliver_leftovers(store)
    count = sum(_rebuild(config, paths, name) for name in config.experiments)
    if count:
        Console().print(f"{count} runs are recorded again, from the histories of the folds.")
    restored, same = restore_pair(config, paths)
    if not same:
        raise TrackingError(
            f"{paths.pair_pin}: the folds or scores on disk are not those that the pin names.",
            "Type `dvc checkout` to bring back the pinned ones, or `dvc repro register` to pin the present ones.",
        )
    Console().print(f"{restored.pair.name} {restored.pair.version} is registered, with all of its files.")


def _make_room(store: Store) -> None:
    """Move a damaged database aside, so that a new one is made."""
    if store.database is not None:
        with store.database_lock():
            aside = set_aside(store.database)
        if aside is not None:
            Console().print(f"{store.database} was damaged; it is kept as {aside.name}.", soft_wrap=True)


def _rebuild(config: Config, paths: Paths, experiment: str) -> int:
    """Record the trainings that the store does not have; returns how many."""
    count = 0
    with refusals_told(paths):
        client = Store.of(paths).client()
        for fold, link in run_links(paths, experiment).items():
            folder = paths.fold(experiment, fold)
            epochs = _epochs(folder)
            if epochs and link.tracking_uri is not None and find_run(client, paths, experiment, fold) is None:
                _record(config, paths, link, folder, epochs)
                count += 1
    return count


def _epochs(folder: Path) -> list[dict[str, str]]:
    """Rows of a fold's history; none where the weights came without one of ours."""
    try:
        rows = list(csv.DictReader((folder / HISTORY).read_text(encoding="utf-8").splitlines()))
    except FileNotFoundError:
        return []
    return rows if rows and {"train_loss", "val_correlation"} <= rows[0].keys() else []


def _record(config: Config, paths: Paths, link: RunLink, folder: Path, epochs: list[dict[str, str]]) -> None:
    info = read_info(folder)
    recipe = config.experiment(info.experiment).training
    steps = recipe.samples_per_epoch // recipe.batch_size
    past = Past(None, fingerprint(info.provenance), link.run_id, [measured(row, steps) for row in epochs])
    record_past(config, paths, info.experiment, info.fold, past, [folder / CONFIG, folder / HISTORY])
