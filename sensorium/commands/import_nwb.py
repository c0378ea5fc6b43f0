"""Import recordings from Neurodata Without Borders files."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sensorium.config import Config
from sensorium.errors import ConfigError
from sensorium.paths import Paths
from sensorium.recordings.nwb import import_nwb, read_map


def run(
    config: Config,
    paths: Paths,
    source: Annotated[Path, typer.Argument(help="An NWB file, or a folder of files of one mouse.")],
    mouse: Annotated[str, typer.Option("-m", "--mouse", help="Name of the mouse.")],
    mapping: Annotated[Path, typer.Option("--map", help="Where the file holds what, such as conf/nwb/lab.yaml.")],
) -> None:
    """Write the recordings of NWB files as a raw mouse, resampled to 30 Hz.

    Raises:
        ConfigError: the mapping or the name cannot be used.
        DataError: a file lacks what the mapping names, or the mouse is already there.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", mouse):
        raise ConfigError(f"mouse {mouse!r}: not a name.", "Use letters, digits, '.', '_' and '-'.")
    target = config.raw_folder(paths.root) / mouse
    tiers = import_nwb(source, target, read_map(mapping))
    counts = ", ".join(f"{count} {tier}" for tier, count in sorted(Counter(tiers).items()))
    Console(highlight=False, soft_wrap=True).print(f"Wrote {target}: {len(tiers)} trials ({counts}).")
