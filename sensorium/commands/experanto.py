"""`sensorium import-experanto` and `export-experanto`: sessions in the folder format of Experanto."""

import functools
import os
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from sensorium.commands.options import Mouse, new_mouse, picture_size, require_choice, require_free, select_mice
from sensorium.config import Config
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError
from sensorium.files import atomic_folder, exclusive_lock
from sensorium.mice import TIERS
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.recordings.experanto.export import export_session
from sensorium.recordings.experanto.screen import KINDS
from sensorium.recordings.experanto.session import Choice, Session, find_sessions


def run_export(
    paths: Paths,
    config: Config,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the sessions, one folder per mouse.")],
    mouse: Mouse = None,
) -> None:
    """Write mice as sessions in Experanto's folder format: screen, responses, eye_tracker, treadmill.

    Raises:
        ConfigError: no such mouse.
        DataError: a store is missing or damaged, or a session is already there.
    """
    mice = select_mice(config, mouse)
    stores = [MouseStore(paths.store(name)) for name in mice]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for store in stores:
        require_free(output / store.name)
    for store in stores:
        with atomic_folder(output / store.name) as partial, Progress(console=console, transient=True) as progress:
            task = progress.add_task(store.name, total=store.trials)
            export_session(store, partial, functools.partial(progress.advance, task))
            require_free(output / store.name)
        console.print(f"{output / store.name}: {store.trials} trials of {store.neurons} neurons.")


def run_import(
    config: Config,
    paths: Paths,
    folder: Annotated[Path, typer.Argument(help="One session, or a folder of sessions.")],
    name: Annotated[
        str | None, typer.Option("-m", "--mouse", help="Name of the mouse, for one session. Default: the folder's.")
    ] = None,
    trials: Annotated[
        str, typer.Option("--trials", help=f"Kinds of trials to take, among {', '.join(KINDS)}.")
    ] = "video,image",
    eye: Annotated[
        str, typer.Option("--eye", help="Columns of pupil dilation, pupil centre x and y in eye_tracker.")
    ] = "0,1,2",
    treadmill: Annotated[int, typer.Option("--treadmill", help="Column of the running speed in treadmill.")] = 0,
    tiers: Annotated[
        str, typer.Option("--tiers", help="Tiers by the session's names: NAME=TIER, joined by commas.")
    ] = "",
    frame_size: Annotated[
        str | None, typer.Option("--frame-size", help="Rows and columns, such as 36x64. Default: the first trial's.")
    ] = None,
) -> None:
    """Turn sessions in Experanto's folder format into raw mice at 30 Hz, below dataset.raw.

    A mouse that is already there is never changed: it is refused, or left out where a folder of sessions is imported.

    Raises:
        ConfigError: an option is no list of columns, tiers or kinds, or the name cannot name a mouse.
        DataError: a file of the session is missing or unsound, or the mouse is already there.
    """
    choice = Choice(
        _kinds(trials),
        _columns(eye),
        treadmill,
        _tiers(tiers),
        None if frame_size is None else picture_size(frame_size),
    )
    sessions = find_sessions(folder)
    if name is not None and len(sessions) > 1:
        raise ConfigError(f"-m {name}: {folder} holds {len(sessions)} sessions.", "Name the folder of one session.")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    raw = config.raw_folder(paths.root)
    for source in sessions:
        place = raw / new_mouse(name or (Path.cwd() / source).name or source.resolve().name)
        if len(sessions) > 1 and os.path.lexists(place):
            console.print(f"{place}: already there, left as it is.")
        else:
            _import(source, place, paths, choice, console)


def _import(source: Path, place: Path, paths: Paths, choice: Choice, console: Console) -> None:
    busy = DataError(f"{place}: another process is writing this mouse.", "Wait until it has finished.")
    with exclusive_lock(paths.lock(f"raw-{place.name}"), busy, place):
        require_free(place)
        session = Session(source, choice)
        with atomic_folder(place) as partial, Progress(console=console, transient=True) as progress:
            task = progress.add_task(place.name, total=len(session.trials))
            session.write(partial, lambda: progress.advance(task))
            require_free(place)
    console.print(
        f"{place}: {len(session.trials)} trials of {session.neurons} neurons. "
        f"In {PARAMS_FILE}: `{place.name}: {session.mouse_set}` in dataset.mice."
    )
    if session.left_out:
        console.print(f"{session.left_out} trials of other kinds than {', '.join(choice.kinds)} were left out.")
    if session.uncovered:
        console.print(f"{session.uncovered} trials have the tier none: a signal does not cover their time.")
    for device in session.missing:
        console.print(f"There is no {device}: its channels are 0.")


def _kinds(text: str) -> list[str]:
    kinds = [part.strip() for part in text.split(",")]
    for kind in kinds:
        require_choice("--trials", kind, KINDS)
    return kinds


def _columns(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text)
    if match is None:
        raise ConfigError(f"--eye {text}: not three columns.", "Give dilation, x and y, such as 0,1,2.")
    return int(match[1]), int(match[2]), int(match[3])


def _tiers(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for _, _, tier in pairs:
        require_choice("--tiers", tier.strip(), TIERS)
    return {given.strip(): tier.strip() for given, _, tier in pairs}
