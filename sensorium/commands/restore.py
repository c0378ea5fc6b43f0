"""`sensorium registry restore`: rebuild a lost or fresh store from DVC's files: runs, models, scores."""

from rich.console import Console

from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.paths import Paths
from sensorium.registry.manifest import PairPin
from sensorium.registry.pair import register_pair
from sensorium.tracking.database import set_aside
from sensorium.tracking.recorder import published_epochs, record_past
from sensorium.tracking.run_links import find_run, run_links
from sensorium.tracking.store import TrackingStore, mlflow_errors
from sensorium.tracking.uploader import upload_remaining


def run(config: Config, paths: Paths) -> None:
    """Register the trained folds again in a tracking store that was lost, emptied or damaged.

    The pin stays as it is: it holds by digest, also where the store counts versions anew. Links to runs
    stay as they are too: a run that replaces a lost one is found by its fingerprint.

    Raises:
        TrackingError: folds or scores are missing, or are not those of the pin.
    """
    store = TrackingStore.of(paths)
    if store.database is not None:
        with store.database_lock():
            aside = set_aside(store.database)
        if aside is not None:
            Console().print(f"{store.database} was damaged; it is kept as {aside.name}.", soft_wrap=True)
    upload_remaining(store)
    count = sum(_rebuild(config, paths, name) for name in config.experiments)
    if count:
        Console().print(f"{count} runs are recorded again, from the histories of the folds.")
    restored = register_pair(config, paths)
    if paths.pair_pin.exists() and PairPin.read(paths.pair_pin).pair.digest != restored.pair.digest:
        raise TrackingError(
            f"{paths.pair_pin}: the folds or scores on disk are not those that the pin names.",
            "Type `dvc checkout` to bring back the pinned ones, or `dvc repro register` to pin the present ones.",
        )
    Console().print(f"{restored.pair.name} {restored.pair.version} is registered, with all of its files.")


def _rebuild(config: Config, paths: Paths, experiment: str) -> int:
    """Record the trainings that the store does not have; returns how many."""
    with mlflow_errors(paths):
        client = TrackingStore.of(paths).client()
        lost = [
            fold
            for fold, link in run_links(paths, experiment).items()
            if link.tracking_uri is not None
            and published_epochs(config, paths, experiment, fold)
            and find_run(client, paths, experiment, fold) is None
        ]
        for fold in lost:
            record_past(config, paths, experiment, fold)
    return len(lost)
