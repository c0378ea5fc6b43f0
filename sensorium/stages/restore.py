"""`sensorium registry restore`: rebuild the registry of a lost or fresh store from DVC's files."""

from rich.console import Console

from sensorium.config import Config
from sensorium.errors import TrackingError
from sensorium.paths import Paths
from sensorium.registry import restore_pair


def run(config: Config, paths: Paths) -> None:
    """Register the folds on disk again, and check that they are what the pin asks for.

    The pin stays as it is: it holds by digest, also where the store counts versions anew.

    Raises:
        TrackingError: folds or scores are missing, or are not those of the pin.
    """
    restored, same = restore_pair(config, paths)
    if not same:
        raise TrackingError(
            f"{paths.pair_pin}: the folds or scores on disk are not those that the pin names.",
            "Type `dvc checkout` to bring back the pinned ones, or `dvc repro register` to pin the present ones.",
        )
    Console().print(f"{restored.pair.name} {restored.pair.version} is registered, with all of its files.")
