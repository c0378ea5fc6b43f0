"""Import recordings from Neurodata Without Borders files."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from sensorium.commands.options import new_mouse, picture_size, require_free
from sensorium.config import Config
from sensorium.errors import DataError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths
from sensorium.recordings.nwb.mapping import read_map
from sensorium.recordings.nwb.reader import import_nwb


def run(
    config: Config,
    paths: Paths,
    source: Annotated[Path, typer.Argument(help="An NWB file, or a folder of files of one mouse.")],
    mouse: Annotated[str, typer.Option("-m", "--mouse", help="Name of the mouse.")],
    mapping: Annotated[Path, typer.Option("--map", help="Where the file holds what, such as conf/nwb/lab.yaml.")],
    frame_size: Annotated[
        str | None,
        typer.Option("--frame-size", help="Rows and columns of the frames, such as 36x64. Default: the mapping's."),
    ] = None,
) -> None:
    """Write the recordings of NWB files as a raw mouse, resampled to 30 Hz.

    Raises:
        ConfigError: the mapping or the name cannot be used.
        DataError: a file lacks what the mapping names, or the mouse is already there.
    """
    target, layout = config.raw_folder(paths.root) / new_mouse(mouse), read_map(mapping)
    if frame_size is not None:
        layout = layout.model_copy(update={"frame_shape": picture_size(frame_size)})
    busy = DataError(f"{target}: another process is writing this mouse.", "Wait until it has finished.")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with exclusive_lock(paths.lock(f"raw-{mouse}"), busy, target):
        require_free(target)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(mouse, total=None)
            tiers = import_nwb(source, target, layout, lambda total: progress.update(task, total=total, advance=1))
    counts = ", ".join(f"{count} {tier}" for tier, count in sorted(Counter(tiers).items()))
    console.print(f"{target}: {len(tiers)} trials ({counts}).")
