"""`sensorium verify --stores`: compare every chunk of the stores with its checksum, and metadata with each other."""

from pathlib import Path

from rich.console import Console

from sensorium.data.mapped import REBUILD
from sensorium.data.metadata import check_mouse
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.paths import Paths


def run(paths: Paths, mice: list[str]) -> None:
    """Read the stores whole and name what is damaged, the first file of each mouse.

    Raises:
        DataError: a store is missing, or a chunk or an array of it is missing or damaged.
    """
    console = Console(highlight=False, soft_wrap=True)
    problems = []
    for mouse in mice:
        try:
            _verify(paths.store(mouse))
        except DataError as fault:
            problems.append(fault.problem)
            console.print(f"{mouse}: [red]damaged[/]")
        else:
            console.print(f"{mouse}: [green]sound[/]")
    if problems:
        raise DataError("\n".join(problems), REBUILD)


def _verify(path: Path) -> None:
    store = MouseStore.open(path)
    check_mouse(path)
    store.verify()
