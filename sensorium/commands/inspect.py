"""`sensorium inspect`: the facts of a mouse or a trial, and a picture of it."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table

from sensorium.commands.options import Mouse, select_mice
from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError
from sensorium.files import atomic_file
from sensorium.paths import Paths
from sensorium.recordings.figures import draw_mouse, draw_trial
from sensorium.recordings.inspect import Facts, TierCount, count_tiers, mouse_facts, trial_facts
from sensorium.report.figures import STYLE
from sensorium.report.page import image, page

ENDINGS = (".png", ".html")
"""What can be written."""


@dataclass(frozen=True)
class _View:
    """What is shown of one mouse or trial."""

    title: str
    facts: Facts
    counts: list[TierCount]
    """Trials by tier and fold; empty for a trial."""
    figure: Figure


def run(
    config: Config,
    paths: Paths,
    mouse: Mouse = None,
    trial: Annotated[
        int | None, typer.Option("-t", "--trial", help="One trial of the mouse; the whole mouse by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png or .html file; default: reports/inspect/.")
    ] = None,
) -> list[Path]:
    """Show a mouse or a trial: print its facts, and draw it.

    A mouse: tiers, folds, neurons. A trial: frames, the animal's state, responses of a few neurons.

    Returns:
        The files written.

    Raises:
        ConfigError: the trial is out of range, the file's ending unknown, or several mice were to go where one does.
        DataError: a store is missing or damaged, or the folds belong to other stores.
    """
    mice = select_mice(config, mouse)
    _check_options(mice, trial, out)
    console = Console(highlight=False)
    views: list[_View] = []
    with mpl.rc_context(STYLE):
        for name in mice:
            views.append(_view(paths, name, trial))
            _print(console, views[-1])
        written = _write(paths, views, mice, trial, out)
    for path in written:
        shown = path.relative_to(paths.root) if path.is_relative_to(paths.root) else path
        console.print(f"Wrote {plain(str(shown))}.", soft_wrap=True)
    return written


def _check_options(mice: Sequence[str], trial: int | None, out: Path | None) -> None:
    if out is not None and out.suffix not in ENDINGS:
        raise ConfigError(f"--out {out}: unknown file ending {out.suffix!r}.", "Name a .png or an .html file.")
    if len(mice) > 1 and trial is not None:
        raise ConfigError(f"--trial {trial}: of which mouse?", f"Name one with -m: {', '.join(mice)}.")
    if len(mice) > 1 and out is not None and out.suffix == ".png":
        raise ConfigError(f"--out {out}: a PNG shows one mouse.", "Name one with -m, or write an .html file.")


def _view(paths: Paths, mouse: str, trial: int | None) -> _View:
    store = MouseStore(paths.store(mouse))
    folds = Folds.load(paths.folds).of(mouse, store.trials) if paths.folds.exists() else None
    if trial is None:
        return _View(mouse, mouse_facts(store), count_tiers(store, folds), draw_mouse(store, folds))
    if not 0 <= trial < store.trials:
        raise ConfigError(
            f"trial {trial}: {mouse} has {store.trials} trials.", f"Choose among 0 to {store.trials - 1}."
        )
    fold = None if folds is None else int(folds[trial])
    return _View(f"{mouse}, trial {trial}", trial_facts(store, trial, fold), [], draw_trial(store, trial))


def _print(console: Console, view: _View) -> None:
    width = max(map(len, view.facts)) + 2
    for name, value in view.facts.items():
        console.print(f"[bold]{name:<{width}}[/]{plain(value)}", soft_wrap=True)
    if view.counts:
        folds = [f"fold {fold}" for fold in range(len(view.counts[0].folds))]
        table = Table("tier", "trials", "labelled", *folds)
        for row in view.counts:
            table.add_row(row.tier, *map(str, (row.trials, row.labelled, *row.folds)))
        console.print(table)
        if not folds:
            console.print("No fold is assigned yet: run `dvc repro folds`.")


def _write(
    paths: Paths, views: Sequence[_View], mice: Sequence[str], trial: int | None, out: Path | None
) -> list[Path]:
    if out is not None and out.suffix == ".html":
        _save(out, page(views[0].title, _lines(views)).encode())
        return [out]
    ending = "" if trial is None else f"-trial_{trial}"
    written = [paths.inspection / f"{mouse}{ending}.png" for mouse in mice] if out is None else [out]
    for view, path in zip(views, written, strict=True):
        _save(path, _png(view.figure))
    return written


def _save(path: Path, content: bytes) -> None:
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(content)
    except OSError as fault:
        raise ConfigError(
            f"{path}: cannot be written ({fault.strerror}).", "Name a file in a folder that you may write to."
        ) from fault


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _lines(views: Sequence[_View]) -> Iterator[str]:
    for view in views:
        yield f"<h1>{escape(view.title)}</h1><table>"
        for name, value in view.facts.items():
            yield f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        yield f"</table>{image(view.title, _png(view.figure))}"
