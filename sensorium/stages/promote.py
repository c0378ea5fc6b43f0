"""`sensorium promote` and `sensorium rollback`: which registered pair is the champion."""

from rich.console import Console

from sensorium.paths import Paths
from sensorium.registry.manifest import PAIR
from sensorium.registry.promotion import promote, rollback
from sensorium.tracking.project_run import log_results


def run(paths: Paths, version: int | None, margin: float, new_data: bool) -> None:
    """Promote a pair.

    Args:
        paths: where everything lies.
        version: version of the pair, None for the pinned one.
        margin: by how much the pair may score worse.
        new_data: do not compare, the data changed for good.

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
    """Go back to the champion before.

    Raises:
        TrackingError: there is none, or it is damaged.
    """
    done = rollback(paths)
    Console(soft_wrap=True).print(f"{PAIR} {done.version} is the champion again, instead of {done.replaced}.")
