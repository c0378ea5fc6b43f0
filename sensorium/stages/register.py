"""`sensorium register`: the trained pair enters the model registry, and a file pins what entered."""

from rich.console import Console

from sensorium.config import Config
from sensorium.files import tidy, waiting_lock
from sensorium.paths import Paths
from sensorium.registry.pair import register_pair
from sensorium.tracking.store import TrackingStore
from sensorium.tracking.uploader import upload_remaining


def run(config: Config, paths: Paths) -> None:
    """Register the trained teacher and student as a pair, and pin what was registered.

    Raises:
        TrackingError: folds or scores are missing, or the tracking server cannot be reached.
    """
    upload_remaining(
        TrackingStore.of(paths)
    )  # the scores join the runs of the trainings; what cannot arrive stays on disk
    pin = register_pair(config, paths)
    with waiting_lock(paths.lock("register")):
        tidy(paths.pair_pin)
        pin.save(paths.pair_pin)
    names = ", ".join(f"{model.name} {model.version}" for model in pin.models.values())
    Console().print(f"{pin.pair.name} {pin.pair.version} pins {names}.")
