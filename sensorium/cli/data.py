"""Verbs that provide, check and prepare the recordings."""

from pathlib import Path
from typing import Annotated

import typer

from sensorium.cli.options import Mouse, context
from sensorium.errors import ConfigError


def add_commands(app: typer.Typer) -> None:
    """Register the verbs of this group."""
    panel = "Data"
    app.command(rich_help_panel=panel)(synthesize)
    app.command(rich_help_panel=panel)(download)
    app.command(rich_help_panel=panel)(responses)
    app.command(rich_help_panel=panel)(verify)
    app.command(rich_help_panel=panel)(ingest)
    app.command(rich_help_panel=panel)(folds)
    app.command(rich_help_panel=panel)(inspect)


def synthesize(mouse: Mouse = None) -> None:
    """Simulate a raw dataset in the competition's on-disk format.

    A mouse that is already there is taken as it is, unless it was simulated from other settings and not
    changed since. The noiseless rate of every trial goes to `.truth/<mouse>` beside the mice, so that the
    best reachable correlation is known.
    """
    from sensorium.stages import synthesize as stage

    ctx = context()
    for name in ctx.mice(mouse):
        stage.run(ctx.config, ctx.paths, name)


def download(
    mouse: Mouse = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check mice that are there by file sizes alone.")] = False,
) -> None:
    """Download the competition's mice that are missing: one zip each, 148 GB in all.

    A stopped download goes on where it was. Recorded mice that are there are never touched: downloaded
    ones are compared with the manifest of their download, others taken as they are. Simulated mice are
    replaced. SENSORIUM_DOWNLOAD_URL names a mirror.
    """
    from sensorium.stages import download as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths, ctx.mice(mouse), quick)


def responses(
    mouse: Mouse = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Folder with <mouse>/<trial>.npy; the Deep Lake hub by default."),
    ] = None,
) -> None:
    """Fill in the old mice's test responses, which were released after their zips.

    Reads them from the Deep Lake hub (`pip install deeplake`), or from files of shape (neurons, frames)
    with `--from`. Only zeros are written over; other responses are compared and never replaced.
    """
    from sensorium.stages import responses as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths, ctx.mice(mouse), source)


def verify(
    mouse: Mouse = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check files, shapes and meta files; read no values.")] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all findings as JSON.")] = None,
    stores: Annotated[
        bool, typer.Option("--stores", help="Check the checksums of the stores, not the raw mice.")
    ] = False,
) -> None:
    """Check raw mice against every rule of the format; all findings at once.

    The exit code is 1 when a finding is an error; warnings leave it at 0.
    """
    ctx = context()
    if stores:
        from sensorium.stages import verify_stores

        if quick or json:
            raise ConfigError(
                "--stores: checks checksums alone, and knows no --quick and no --json.", "Leave them out."
            )
        verify_stores.run(ctx.paths, ctx.mice(mouse))
        return
    from sensorium.stages import verify as stage

    stage.run(ctx.config, ctx.paths, ctx.mice(mouse), quick, json)


def ingest(mouse: Mouse = None) -> None:
    """Provide a raw mouse as `dataset.get` says, and write it into its Zarr store: compact, time-major, checked."""
    from sensorium.stages import ingest as stage

    ctx = context()
    for name in ctx.mice(mouse):
        stage.run(ctx.config, ctx.paths, name)


def folds() -> None:
    """Assign every labelled trial to a fold, by what its video shows."""
    from sensorium.stages import folds as stage

    ctx = context()
    stage.run(ctx.config, ctx.paths)


def inspect(
    mouse: Mouse = None,
    trial: Annotated[
        int | None, typer.Option("-t", "--trial", help="One trial of the mouse; the whole mouse by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png or .html file; default: reports/inspect/.")
    ] = None,
) -> None:
    """Look at a mouse or a trial: print its facts, and draw it.

    A mouse: tiers, folds, neurons. A trial: frames, the animal's state, responses of a few neurons.
    """
    from sensorium.stages import inspect as stage

    ctx = context()
    stage.run(ctx.paths, ctx.mice(mouse), trial, out)
