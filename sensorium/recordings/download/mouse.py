"""Makes sure that one mouse is there: takes what is there, or fetches, checks, unpacks and publishes it.

The raw folder sees the mouse whole or not at all; the zip waits in the state folder and is removed
when the mouse is published. The competition publishes no checksums: the zip's own CRC-32 guards the transfer, and a
manifest in the mouse's folder, with the SHA-256 of every file, guards against later damage.
"""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict

from sensorium.errors import ConfigError, DataError, TransferError
from sensorium.files import atomic_folder, exclusive_lock, read_json, sha256, write_json
from sensorium.mice import MouseSet
from sensorium.recordings import inventory
from sensorium.recordings.download.archive import Archive, DamagedArchiveError, inspect, unpack
from sensorium.recordings.download.transfer import RetryPolicy, Transfer
from sensorium.recordings.inventory import FileEntry
from sensorium.recordings.raw import require_linked
from sensorium.recordings.synthetic.marker import TRUTH_FOLDER, is_marked, require_untouched

Progress = Callable[[str, int, int | None], None]
"""Called with what is going on, the bytes done and all bytes where known."""

Outcome = Literal[
    "taken as it is", "unchanged since its download", "downloaded", "downloaded in place of the simulated mouse"
]

MANIFEST = Path("meta", "manifest.json")
"""Place of the manifest inside a mouse's folder."""
BASE_URLS: dict[MouseSet, str] = {
    "new": "https://gin.g-node.org/pollytur/sensorium_2023_dataset/raw/master",
    "old": "https://gin.g-node.org/pollytur/Sensorium2023Data/raw/master",
}
"""Folder of the competition's zips, by the mouse's set."""
MIRROR_VARIABLE = "SENSORIUM_DOWNLOAD_URL"
"""Environment variable with the address of a mirror that holds all zips in one folder."""
_DOWNLOADS_OF_A_DAMAGED_ZIP = 2
_SPACE_MARGIN = 1.02
_UNPACKING = threading.Lock()
"""Mice are unpacked one at a time, so that free space is judged and used by one of them."""


def zip_url(mouse: str, mouse_set: MouseSet) -> str:
    """Address of a mouse's zip, on the mirror where one is set.

    Raises:
        ConfigError: the mirror is no HTTP address.
    """
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror and not mirror.startswith(("http://", "https://")):
        raise ConfigError(f"{MIRROR_VARIABLE}: {mirror!r} is no HTTP address.", "Start it with https:// or http://.")
    return f"{(mirror or BASE_URLS[mouse_set]).rstrip('/')}/{mouse}.zip"


@dataclass(frozen=True)
class DownloadRequest:
    """One mouse that should be there."""

    mouse: str
    url: str
    folder: Path
    """Where the mouse belongs."""
    state: Path
    """Folder for the zip on its way."""
    policy: RetryPolicy
    quick: bool = False
    """Compare a mouse that is there by sizes alone."""

    @property
    def zip(self) -> Path:
        """The mouse's zip."""
        return self.state / f"{self.mouse}.zip"

    @property
    def simulated(self) -> bool:
        """Whether a simulated mouse is where the downloaded one belongs."""
        return is_marked(self.folder) and not (self.folder / MANIFEST).exists()

    @property
    def missing(self) -> bool:
        """Whether there is anything to download."""
        return self.simulated or not self.folder.exists()


def ensure_mouse(request: DownloadRequest, on_progress: Progress, stop: threading.Event) -> Outcome:
    """Make sure that a mouse is there: the recorded one, in place of a simulated one too.

    Args:
        request: which mouse.
        on_progress: called as the work goes on.
        stop: ends the work when set; a transfer goes on at the next call.

    Raises:
        DataError: the mouse is there, but differs from its manifest or from what was simulated; or its
            folder is a link to nowhere.
        TransferError: the mouse cannot be had, does not fit the disk, or another process fetches it.
    """
    require_linked(request.folder)
    if not request.missing:
        manifest = read_manifest(request.folder)
        if manifest is None:
            return "taken as it is"
        total = sum(entry["size"] for entry in manifest["files"].values())
        check_manifest(request.folder, manifest, request.quick, _meter(request, "checking", total, on_progress, stop))
        return "unchanged since its download"
    simulated = request.simulated
    if simulated:
        require_untouched(request.folder)
    busy = TransferError(
        f"{request.mouse}: another process is downloading it.", "Wait for it to end, then run the command again."
    )
    with exclusive_lock(request.state / f"{request.mouse}.lock", busy, request.folder):
        archive = _fetch(request, on_progress, stop)
        with _UNPACKING:
            _publish(request, archive, on_progress, stop)
        request.zip.unlink()
    return "downloaded in place of the simulated mouse" if simulated else "downloaded"


def _meter(
    request: DownloadRequest, phase: str, total: int, on_progress: Progress, stop: threading.Event
) -> Callable[[int], None]:
    """Adds up bytes for the progress bar, and ends the work when asked to."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        if stop.is_set():
            raise TransferError(f"{request.mouse}: stopped while {phase}.", "Run the command again.")
        done += count
        on_progress(phase, done, total)

    return add


def _fetch(request: DownloadRequest, on_progress: Progress, stop: threading.Event) -> Archive:
    """Bring the zip here and judge it; a damaged one is fetched once more."""
    transfer = Transfer(request.url, request.zip, request.policy, partial(on_progress, "downloading"), stop)
    for _ in range(_DOWNLOADS_OF_A_DAMAGED_ZIP):
        if not request.zip.exists():
            transfer.run()
        try:
            return inspect(request.zip, request.mouse)
        except DamagedArchiveError as fault:
            reason = str(fault)
            transfer.discard()
        except TransferError:
            transfer.discard()
            raise
    raise _damaged(request, reason)


def _damaged(request: DownloadRequest, reason: str) -> TransferError:
    return TransferError(
        f"{request.url}: not a mouse's archive: {reason}.",
        "Try again later, set SENSORIUM_DOWNLOAD_URL to a mirror, or put the raw mouse into dataset.raw by hand.",
    )


def _publish(request: DownloadRequest, archive: Archive, on_progress: Progress, stop: threading.Event) -> None:
    require_space({request.folder.parent: archive.unpacked_bytes}, f"unpacking {request.mouse}")
    meter = _meter(request, "unpacking", archive.unpacked_bytes, on_progress, stop)
    try:
        with atomic_folder(request.folder) as folder:
            files = unpack(archive, folder, meter)
            files.pop(MANIFEST.as_posix(), None)  # of who made the zip from a download; ours takes its place
            zip_entry = FileEntry(size=archive.path.stat().st_size, sha256=sha256(archive.path))
            write_json(folder / MANIFEST, DownloadManifest(url=request.url, zip=zip_entry, files=files))
            if request.simulated:  # only an untouched one gives way; its noiseless rates go with it
                require_untouched(request.folder)
                shutil.rmtree(request.folder.parent / TRUTH_FOLDER / request.mouse, ignore_errors=True)
            elif request.folder.exists():
                raise TransferError(
                    f"{request.folder}: appeared while the mouse was downloaded, taken as it is.",
                    "Run the command again to go on with the other mice.",
                )
    except DamagedArchiveError as fault:
        request.zip.unlink()
        raise _damaged(request, str(fault)) from fault
    except OSError as fault:
        raise TransferError(
            f"{request.folder}: cannot be written ({fault.strerror or fault}).",
            "Mend what is wrong with the disk and run the command again; the zip need not be fetched again.",
        ) from fault


def require_space(needs: dict[Path, int], purpose: str) -> None:
    """Make sure that the disks have room.

    Args:
        needs: bytes needed in each folder, which may not exist yet; folders of one disk add up.
        purpose: what for.

    Raises:
        TransferError: there is too little.
    """
    disks: dict[int, Path] = {}
    wanted: Counter[int] = Counter()
    for folder, count in needs.items():
        present = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
        disks[present.stat().st_dev] = present
        wanted[present.stat().st_dev] += count
    for disk, present in disks.items():
        free, needed = shutil.disk_usage(present).free, wanted[disk] * _SPACE_MARGIN
        if free < needed:
            raise TransferError(
                f"{present}: {purpose} needs {needed / 2**30:.1f} GiB here, {free / 2**30:.1f} GiB are free.",
                "Free space there, or set dataset.raw in params.yaml to a larger disk.",
            )


class DownloadManifest(TypedDict):
    """Content of the manifest."""

    url: str
    zip: FileEntry
    files: dict[str, FileEntry]


def read_manifest(folder: Path) -> DownloadManifest | None:
    """Read a mouse's manifest; None where there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    remedy = f"Remove {path} to take the mouse as it is, or the mouse's folder to download it again."
    tree = read_json(path, DataError, remedy)
    files = inventory.parse(tree.get("files")) if isinstance(tree, dict) else None
    if files is None or "zip" not in tree:
        raise DataError(f"{path}: not a manifest.", remedy)
    return DownloadManifest(url=str(tree.get("url", "")), zip=tree["zip"], files=files)


def check_manifest(folder: Path, manifest: DownloadManifest, quick: bool, on_bytes: Callable[[int], None]) -> None:
    """Compare a mouse's files with its manifest.

    Args:
        folder: the mouse's folder.
        manifest: what was published.
        quick: compare sizes alone.
        on_bytes: called with the size of each file.

    Raises:
        DataError: files are missing or changed; all of them are counted, the first is named.
    """
    changed = inventory.differences(folder, manifest["files"], quick, on_bytes)
    if changed:
        raise DataError(
            f"{folder}: {len(changed)} of {len(manifest['files'])} files differ from the download: {changed[0]}.",
            f"Remove the folder to download the mouse again; or, if the change is yours, remove {MANIFEST} inside it.",
        )
