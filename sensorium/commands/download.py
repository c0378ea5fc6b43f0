"""`sensorium download`: provide the competition's mice, several at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from sensorium.commands.options import Mouse, select_mice
from sensorium.config import Config
from sensorium.errors import SensoriumError, TransferError
from sensorium.paths import Paths
from sensorium.recordings.download.mouse import Order, Outcome, Phase, provide, require_space
from sensorium.recordings.download.sources import zip_url
from sensorium.recordings.download.transfer import Policy, probe_size

_DEFAULT_POLICY = Policy()
_PARALLEL = 3
"""Mice at a time; more would only share the server's line."""


def run(
    config: Config,
    paths: Paths,
    mouse: Mouse = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check mice that are there by file sizes alone.")] = False,
) -> None:
    """Download the competition's mice that are missing: one zip each, 148 GB in all.

    A stopped download continues where it was. Recorded mice that are there are never touched: downloaded
    ones are compared with the manifest of their download, others taken as they are. Simulated mice are
    replaced. SENSORIUM_DOWNLOAD_URL names a mirror.

    Raises:
        SensoriumError: a mouse could not be provided; the others are.
    """
    provide_mice(config, paths, select_mice(config, mouse), quick)


def provide_mice(
    config: Config, paths: Paths, mice: list[str], quick: bool = False, policy: Policy = _DEFAULT_POLICY
) -> None:
    """Provide mice: those that are there are checked, the others downloaded, simulated ones replaced.

    Args:
        config: all settings.
        paths: the project's files.
        mice: names of the mice.
        quick: check mice that are there by the sizes of their files alone.
        policy: how patient the transfers are.

    Raises:
        SensoriumError: a mouse could not be provided; the others are.
    """
    raw = config.raw_folder(paths.root)
    orders = [
        Order(m, zip_url(m, config.dataset.mice[m]), raw / m, paths.state / "downloads", policy, quick) for m in mice
    ]
    _check_space([order for order in orders if order.missing])
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    faults = _provide_all(orders, console)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        problems = "\n".join(str(fault) for fault in faults)
        raise TransferError(f"{len(faults)} of {len(mice)} mice could not be provided:\n{problems}")


def _check_space(missing: list[Order]) -> None:
    """Refuse early: the zips and what they unpack to, which is no smaller, must fit."""
    needs: dict[Path, int] = {}
    for order in missing:
        size = probe_size(order.url, order.policy) or 0
        for folder in (order.state, order.folder.parent):
            needs[folder] = needs.get(folder, 0) + size
    require_space(needs, f"downloading {len(missing)} mice")


def _provide_all(orders: list[Order], console: Console) -> list[SensoriumError]:
    """Provide all mice side by side; what fails does not hold up the others."""
    stop = threading.Event()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress, ThreadPoolExecutor(_PARALLEL) as pool:
        futures = {order.mouse: pool.submit(_provide, order, progress, stop) for order in orders}
        faults = []
        try:
            for order in orders:
                try:
                    console.print(f"{order.folder}: {futures[order.mouse].result()}.")
                except SensoriumError as fault:
                    faults.append(fault)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return faults


def _provide(order: Order, progress: Progress, stop: threading.Event) -> Outcome:
    task = progress.add_task(order.mouse, total=None)

    def show(phase: Phase, done: int, total: int | None) -> None:
        progress.update(task, description=f"{phase} {order.mouse}", completed=done, total=total)

    try:
        return provide(order, show, stop)
    finally:
        progress.remove_task(task)
