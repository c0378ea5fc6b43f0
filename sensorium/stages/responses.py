"""`sensorium responses`: fill in the released test responses of old mice."""

from pathlib import Path

from rich.console import Console

from sensorium.config import Config
from sensorium.errors import ConfigError, DataError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths
from sensorium.recordings.download.released import fill_in, from_folder, from_hub
from sensorium.recordings.raw import RawMouse


def run(config: Config, paths: Paths, mice: list[str], folder: Path | None) -> None:
    """Replace zeros in the test tiers of old mice by the responses released later.

    Args:
        config: all settings.
        paths: the project's files.
        mice: names of the mice; new mice among them are left out.
        folder: holds <mouse>/<trial>.npy; None reads the Deep Lake hub.

    Raises:
        ConfigError: none of the mice is old, or the hub's library is not installed.
        DataError: a mouse or its responses are unsound, or another process writes the mouse; what was there
            is unchanged.
        TransferError: the hub does not answer.
    """
    old = [mouse for mouse in mice if config.dataset.mice[mouse] == "old"]
    if not old:
        raise ConfigError(
            f"{', '.join(mice)}: not an old mouse; responses were released for old mice only.",
            "Choose a mouse whose set is old in params.yaml.",
        )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for name in old:
        place = config.raw_folder(paths.root) / name
        busy = DataError(f"{place}: another process is writing this mouse.", "Wait until it has finished.")
        with exclusive_lock(paths.lock(f"raw-{name}"), busy, place):
            mouse = RawMouse(place)
            released = from_folder(folder, mouse) if folder else from_hub(mouse)
            console.print(f"{mouse.folder}: {fill_in(mouse, released)} trials filled in.")
