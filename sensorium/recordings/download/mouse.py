"""Provides one mouse: takes what is there, or fetches, checks, unpacks and publishes it.

The raw folder sees the mouse whole or not at all; the zip waits in the state folder and is removed
when the mouse stands.
"""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sensorium.errors import TransferError
from sensorium.files import atomic_folder, sha256, sole_writer
from sensorium.recordings.download.archive import Archive, DamagedArchiveError, inspect, unpack
from sensorium.recordings.download.manifest import MANIFEST, Manifest, check_manifest, read_manifest, write_manifest
from sensorium.recordings.download.transfer import Policy, Transfer
from sensorium.recordings.inventory import FileEntry
from sensorium.recordings.place import require_linked
from sensorium.recordings.synthetic.marker import TRUTH_FOLDER, is_marked, require_untouched

Phase = Literal["checking", "downloading", "unpacking"]
Progress = Callable[[Phase, int, int | None], None]
"""Called with what is going on, the bytes done and all bytes where known."""

Outcome = Literal[
    "taken as it is", "unchanged since its download", "downloaded", "downloaded in place of the simulated mouse"
]

_DOWNLOADS_OF_A_DAMAGED_ZIP = 2
_SPACE_MARGIN = 1.02
_UNPACKING = threading.Lock()
"""Mice are unpacked one at a time, so that free space is judged and used by one of them."""


@dataclass(frozen=True)
class Order:
    """One mouse to provide."""

    mouse: str
    url: str
    folder: Path
    """Where the mouse belongs."""
    state: Path
    """Folder for the zip on its way."""
    policy: Policy
    quick: bool = False
    """Compare a mouse that is there by sizes alone."""

    @property
    def zip(self) -> Path:
        """The mouse's zip."""
        return self.state / f"{self.mouse}.zip"

    @property
    def simulated(self) -> bool:
        """Whether a simulated mouse stands where the downloaded one belongs."""
        return is_marked(self.folder) and not (self.folder / MANIFEST).exists()

    @property
    def missing(self) -> bool:
        """Whether there is anything to download."""
        return self.simulated or not self.folder.exists()


def provide(order: Order, on_progress: Progress, stop: threading.Event) -> Outcome:
    """Make sure that a mouse is there: the recorded one, in place of a simulated one too.

    Args:
        order: what to provide.
        on_progress: called as the work goes on.
        stop: ends the work when set; a transfer goes on at the next call.

    Raises:
        DataError: the mouse is there, but differs from its manifest or from what was simulated; or its
            folder is a link to nowhere.
        TransferError: the mouse cannot be had, does not fit the disk, or another process fetches it.
    """
    require_linked(order.folder)
    if not order.missing:
        return _check_standing(order, on_progress, stop)
    simulated = order.simulated
    if simulated:
        require_untouched(order.folder)
    busy = TransferError(
        f"{order.mouse}: another process is downloading it.", "Wait for it to end, then run the command again."
    )
    with sole_writer(order.state / f"{order.mouse}.lock", busy, order.folder):
        archive = _fetch(order, on_progress, stop)
        with _UNPACKING:
            _publish(order, archive, on_progress, stop)
        order.zip.unlink()
    return "downloaded in place of the simulated mouse" if simulated else "downloaded"


class _Meter:
    """Adds up bytes for the progress bar, and ends the work when asked to."""

    def __init__(self, order: Order, phase: Phase, total: int, on_progress: Progress, stop: threading.Event) -> None:
        self._order, self._phase, self._total = order, phase, total
        self._on_progress, self._stop = on_progress, stop
        self._done = 0

    def __call__(self, count: int) -> None:
        if self._stop.is_set():
            raise TransferError(f"{self._order.mouse}: stopped while {self._phase}.", "Run the command again.")
        self._done += count
        self._on_progress(self._phase, self._done, self._total)


def _check_standing(order: Order, on_progress: Progress, stop: threading.Event) -> Outcome:
    manifest = read_manifest(order.folder)
    if manifest is None:
        return "taken as it is"
    total = sum(entry["size"] for entry in manifest["files"].values())
    check_manifest(order.folder, manifest, order.quick, _Meter(order, "checking", total, on_progress, stop))
    return "unchanged since its download"


def _fetch(order: Order, on_progress: Progress, stop: threading.Event) -> Archive:
    """Bring the zip here and judge it; a damaged one is fetched once more."""
    transfer = Transfer(
        order.url, order.zip, order.policy, lambda done, total: on_progress("downloading", done, total), stop
    )
    reasons = []
    for _ in range(_DOWNLOADS_OF_A_DAMAGED_ZIP):
        if not order.zip.exists():
            transfer.run()
        try:
            return inspect(order.zip, order.mouse)
        except DamagedArchiveError as fault:
            reasons.append(str(fault))
            transfer.discard()
        except TransferError:
            transfer.discard()
            raise
    raise _damaged(order, reasons[-1])


def _damaged(order: Order, reason: str) -> TransferError:
    return TransferError(
        f"{order.url}: not a mouse's archive: {reason}.",
        "Try again later, set SENSORIUM_DOWNLOAD_URL to a mirror, or put the raw mouse into dataset.raw by hand.",
    )


def _publish(order: Order, archive: Archive, on_progress: Progress, stop: threading.Event) -> None:
    require_space({order.folder.parent: archive.unpacked_bytes}, f"unpacking {order.mouse}")
    meter = _Meter(order, "unpacking", archive.unpacked_bytes, on_progress, stop)
    try:
        with atomic_folder(order.folder) as partial:
            files = unpack(archive, partial, meter)
            files.pop(MANIFEST.as_posix(), None)  # of who made the zip from a download; ours takes its place
            zip_entry = FileEntry(size=archive.path.stat().st_size, sha256=sha256(archive.path))
            write_manifest(partial, Manifest(url=order.url, zip=zip_entry, files=files))
            _clear(order)
    except DamagedArchiveError as fault:
        order.zip.unlink()
        raise _damaged(order, str(fault)) from fault
    except OSError as fault:
        raise TransferError(
            f"{order.folder}: cannot be written ({fault.strerror or fault}).",
            "Mend what is wrong with the disk and run the command again; the zip need not be fetched again.",
        ) from fault


def _clear(order: Order) -> None:
    """Make way for the mouse: only an untouched simulated one gives way, and its noiseless rates go with it."""
    if order.simulated:
        require_untouched(order.folder)
        shutil.rmtree(order.folder.parent / TRUTH_FOLDER / order.mouse, ignore_errors=True)
    elif order.folder.exists():
        raise TransferError(
            f"{order.folder}: appeared while the mouse was downloaded, taken as it is.",
            "Run the command again to go on with the other mice.",
        )


def require_space(needs: dict[Path, int], purpose: str) -> None:
    """Make sure that the disks have room.

    Args:
        needs: bytes needed in each folder, which may not exist yet; folders of one disk add up.
        purpose: what for.

    Raises:
        TransferError: there is too little.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for folder, count in needs.items():
        standing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
        disk = standing.stat().st_dev
        disks[disk] = (standing, disks.get(disk, (standing, 0))[1] + count)
    for standing, count in disks.values():
        free = shutil.disk_usage(standing).free
        if free < count * _SPACE_MARGIN:
            raise TransferError(
                f"{standing}: {purpose} needs {count * _SPACE_MARGIN / 2**30:.1f} GiB here, "
                f"{free / 2**30:.1f} GiB are free.",
                "Free space there, or set dataset.raw in params.yaml to a larger disk.",
            )
