"""Whether a mouse's folder is where it seems to be: links to nowhere, and recordings one folder too deep."""

from pathlib import Path

from sensorium.errors import DataError


def require_linked(folder: Path) -> None:
    """Refuse a folder that is, or lies in, a link to nowhere: most likely to a disk that is not mounted.

    Raises:
        DataError: naming the link and where it points.
    """
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise DataError(
                f"{place}: a link to {place.readlink()}, which does not exist.",
                "Mount the disk that it points to, or remove the link.",
            )


def is_too_deep(folder: Path) -> bool:
    """Whether a mouse's folder holds the mouse's folder, as some programs unpack a zip."""
    return (folder / folder.name / "data").is_dir() and not (folder / "data").exists()


def require_flat(folder: Path) -> None:
    """Refuse a mouse's folder that holds the mouse's folder.

    Raises:
        DataError: naming the inner folder.
    """
    if is_too_deep(folder):
        raise DataError(
            f"{folder / folder.name}: the recordings lie one folder too deep.", f"Move what is in there to {folder}."
        )
