"""What a mouse's folder held when it was written: sizes and SHA-256 of its files, and what differs since."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from sensorium.files import sha256


class FileEntry(TypedDict):
    """What is noted about a file."""

    size: int
    sha256: str


def take(folder: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file below a folder, by name relative to it."""
    return {
        name: FileEntry(size=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in _names(folder)
    }


def parse(tree: Any) -> dict[str, FileEntry] | None:
    """What was noted, as read from JSON; None where it is something else."""
    entries = tree.values() if isinstance(tree, dict) else [None]
    sound = all(isinstance(entry, dict) and entry.keys() >= FileEntry.__required_keys__ for entry in entries)
    return dict(tree) if sound else None


def differences(
    folder: Path, files: Mapping[str, FileEntry], quick: bool, on_bytes: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Files that are missing or changed, one phrase each.

    Args:
        folder: the mouse's folder.
        files: what was noted.
        quick: compare sizes alone.
        on_bytes: called with the size of each file.
    """
    changed: list[str] = []
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            changed.append(f"{name} is missing")
        elif path.stat().st_size != entry["size"]:
            changed.append(f"{name} has {path.stat().st_size} bytes instead of {entry['size']}")
        elif not quick and sha256(path) != entry["sha256"]:
            changed.append(f"{name} has another SHA-256")
        on_bytes(entry["size"])
    return changed


def additions(folder: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """Files that were not noted, by name."""
    return [name for name in _names(folder) if name not in files]


def _names(folder: Path) -> list[str]:
    """Everything below a folder that is no folder itself, links to folders among it."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        place = Path(parent)
        links = [name for name in folders if (place / name).is_symlink()]
        found += [(place / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)
