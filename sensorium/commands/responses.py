"""`sensorium responses`: fill in the released test responses of old mice."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sensorium.commands.options import Mouse, select_mice
from sensorium.config import Config
from sensorium.errors import ConfigError, DataError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths
from sensorium.recordings.download.released import fill_in, from_folder, from_hub
from sensorium.recordings.raw import RawMouse


def run(
    config: Config,
    paths: Paths,
    mouse: Mouse = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Folder with MOUSE/TRIAL.npy; the Deep Lake hub by default."),
    ] = None,
) -> None:
    """Fill in the old mice's test responses, which were released after their zips.

    Reads them from the Deep Lake hub (`pip install deeplake`), or from files of shape (neurons, frames)
    with `--from`. Only zeros are written over; other responses are compared and never replaced.

    Raises:
        ConfigError: none of the mice is old, or the hub's library is not installed.
        DataError: a mouse or its responses are unsound, or another process writes the mouse; what was there
            is unchanged.
        TransferError: the hub does not answer.
    """
    mice = select_mice(config, mouse)
    old = [name for name in mice if config.dataset.mice[name] == "old"]
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
            raw = RawMouse(place)
            released = from_folder(source, raw) if source else from_hub(raw)
            console.print(f"{raw.folder}: {fill_in(raw, released)} trials filled in.")
