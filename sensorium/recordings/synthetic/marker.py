"""The mark on a simulated mouse: what it was made from, and every file it then had.

Only a folder that still is what its mark says may be replaced: it can be made again. Any difference means
that somebody else's work lies there as well, such as a recorded mouse unpacked over a simulated one.
"""

from pathlib import Path
from typing import Any

from sensorium.errors import DataError
from sensorium.files import read_json, write_json
from sensorium.recordings import inventory

TRUTH_FOLDER = ".truth"
"""Sibling of the mice that holds the noiseless rates: <mouse>/<trial>.npy, float32 (N, L)."""
MARKER = Path("meta", "synthetic.json")
"""Says that this generator wrote the mouse, from what, and which files."""
_GENERATOR = "sensorium synthesize"


def write_marker(folder: Path, version: int, digest: str) -> None:
    """Mark a complete mouse, the last file that is written."""
    files = inventory.take(folder)
    write_json(folder / MARKER, {"generator": _GENERATOR, "version": version, "digest": digest, "files": files})


def is_marked(folder: Path) -> bool:
    """Whether a mouse is marked as simulated."""
    return (folder / MARKER).exists()


def read_digest(folder: Path) -> str | None:
    """Digest of what a marked mouse was made from.

    Raises:
        DataError: the marker is damaged.
    """
    digest = _read(folder).get("digest")
    return digest if isinstance(digest, str) else None


def changes(folder: Path, quick: bool = False) -> list[str]:
    """How a marked mouse differs from what was simulated, one phrase each; `quick` compares names and sizes alone.

    Raises:
        DataError: the marker is damaged.
    """
    files = inventory.parse(_read(folder).get("files"))
    if files is None:
        return [f"{MARKER} lists no files"]
    added = [name for name in inventory.additions(folder, files) if name != MARKER.as_posix()]
    found = [f"{name} was not simulated" for name in added] + inventory.differences(folder, files, quick=True)
    return found if found or quick else inventory.differences(folder, files, quick=False)


def require_untouched(folder: Path) -> None:
    """Make sure that a mouse is as it was simulated, so that it may be replaced.

    Raises:
        DataError: it is not marked, or differs from what was simulated; it must be left alone.
    """
    found = changes(folder) if is_marked(folder) else [f"{MARKER} is missing"]
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise DataError(
            f"{folder}: not what was simulated there, so it is never replaced: {found[0]}{more}.", _remedy(folder)
        )


def _read(folder: Path) -> dict[str, Any]:
    tree = read_json(folder / MARKER, DataError, _remedy(folder))
    return tree if isinstance(tree, dict) else {}


def _remedy(folder: Path) -> str:
    return (
        f"If the recordings are yours, remove {folder / MARKER} and {folder.parent / TRUTH_FOLDER / folder.name}, and "
        "they are taken as they are; if not, remove the mouse's folder, and it is provided again."
    )
