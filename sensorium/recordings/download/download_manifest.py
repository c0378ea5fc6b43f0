"""What a download published: sizes and SHA-256 of a mouse's files, checked by every later run.

The competition publishes no checksums; the manifest therefore guards against later damage, while the
zip's own CRC-32 guards the transfer. It lies inside the mouse's folder and travels with it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from sensorium.errors import DataError
from sensorium.files import read_json
from sensorium.recordings import inventory
from sensorium.recordings.inventory import FileEntry

MANIFEST = Path("meta", "manifest.json")
"""Place of the manifest inside a mouse's folder."""


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
