"""`sensorium promote` and `sensorium rollback`: which registered pair is the champion."""

from typing import Annotated

import typer
from rich.console import Console

from sensorium.paths import Paths
from sensorium.registry.manifest import PAIR
from sensorium.registry.promotion import promote, rollback
from sensorium.tracking.project_run import log_results


def run(
    paths: Paths,
    version: Annotated[
        int | None, typer.Option(min=1, help="Version of sensorium-pair; the pinned one by default.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, help="How much worse than the champion it may be, with 95% confidence.")
    ] = 0.0,
    new_data: Annotated[bool, typer.Option("--new-data", help="The data changed for good: do not compare.")] = False,
) -> None:
    """Make a registered pair the champion, if it scores better out of fold than the present one.

    The champion is what `models:/sensorium-pair@champion` serves.

    Raises:
        TrackingError: the candidate is refused, or another promotion was faster.
    """
    done = promote(paths, version, margin, new_data)
    if done.comparison is not None:
        log_results(paths, {f"difference/{key}": getattr(done.comparison, key) for key in ("mean", "low", "high")})
    console = Console(soft_wrap=True)
    if done.replaced == done.version:
        console.print(f"{PAIR} {done.version} is the champion already.")
    elif done.replaced is None:
        console.print(f"{PAIR} {done.version} is the first champion.")
    else:
        reason = "on new data" if done.comparison is None else f"out of fold {done.comparison}"
        console.print(f"{PAIR} {done.version} is the champion instead of {done.replaced}: {reason}.")


def run_rollback(paths: Paths) -> None:
    """Make the pair before the present champion the champion again.

    Raises:
        TrackingError: there is none, or it is damaged.
    """
    done = rollback(paths)
    Console(soft_wrap=True).print(f"{PAIR} {done.version} is the champion again, instead of {done.replaced}.")
