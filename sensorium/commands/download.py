"""`sensorium download`: provide the competition's mice, several at a time."""

import threading
from collections import Counter
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
from sensorium.recordings.download.mouse import DownloadRequest, Outcome, ensure_mouse, require_space, zip_url
from sensorium.recordings.download.transfer import RetryPolicy, probe_size

_DEFAULT_POLICY = RetryPolicy()
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
        SensoriumError: a mouse could not be had; the others are there.
    """
    ensure_mice(config, paths, select_mice(config, mouse), quick)


def ensure_mice(
    config: Config, paths: Paths, mice: list[str], quick: bool = False, policy: RetryPolicy = _DEFAULT_POLICY
) -> None:
    """Make sure that mice are there: those that are there are checked, the others downloaded, simulated ones replaced.

    Args:
        config: all settings.
        paths: the project's files.
        mice: names of the mice.
        quick: check mice that are there by the sizes of their files alone.
        policy: when transfers try again.

    Raises:
        SensoriumError: a mouse could not be had; the others are there.
    """
    raw = config.raw_folder(paths.root)
    state = paths.state / "downloads"
    requests = [
        DownloadRequest(mouse, zip_url(mouse, config.dataset.mice[mouse]), raw / mouse, state, policy, quick)
        for mouse in mice
    ]
    _check_space([request for request in requests if request.missing])
    faults = _ensure_all(requests, Console(stderr=True, highlight=False, soft_wrap=True))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        problems = "\n".join(str(fault) for fault in faults)
        raise TransferError(f"{len(faults)} of {len(mice)} mice could not be provided:\n{problems}")


def _check_space(missing: list[DownloadRequest]) -> None:
    """Refuse early: the zips and what they unpack to, which is no smaller, must fit."""
    needs: Counter[Path] = Counter()
    for request in missing:
        size = probe_size(request.url, request.policy) or 0
        needs.update({request.state: size, request.folder.parent: size})
    require_space(needs, f"downloading {len(missing)} mice")


def _ensure_all(requests: list[DownloadRequest], console: Console) -> list[SensoriumError]:
    """Download all mice side by side; what fails does not hold up the others."""
    stop, size = threading.Event(), DownloadColumn(binary_units=True)
    columns = (TextColumn("{task.description}"), BarColumn(), size, TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress, ThreadPoolExecutor(_PARALLEL) as pool:
        futures = [pool.submit(_ensure, request, progress, stop) for request in requests]
        faults = []
        try:
            for request, future in zip(requests, futures, strict=True):
                try:
                    console.print(f"{request.folder}: {future.result()}.")
                except SensoriumError as fault:
                    faults.append(fault)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return faults


def _ensure(request: DownloadRequest, progress: Progress, stop: threading.Event) -> Outcome:
    task = progress.add_task(request.mouse, total=None)

    def show(phase: str, done: int, total: int | None) -> None:
        progress.update(task, description=f"{phase} {request.mouse}", completed=done, total=total)

    try:
        return ensure_mouse(request, show, stop)
    finally:
        progress.remove_task(task)
