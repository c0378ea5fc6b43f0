"""The resume states of a project, seen from outside: whose they are, how far, how large; and their removal.

A training leaves its folder of states when it is published. States of settings that were given up stay,
since the user may come back to them, until they are removed by hand.
"""

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sensorium.errors import TrainingError
from sensorium.files import PARTIAL_SUFFIX, read_json, write_json

DIGITS = 16
STATE_NAME = re.compile(rf"(\d{{6}})-(\d{{9}})-([0-9a-f]{{{DIGITS}}})\.pt")
"""Epoch and step to go on with, and the start of the file's SHA-256."""

_ABOUT = "training.json"
_ID_DIGITS = 12


@dataclass(frozen=True)
class About:
    """Whose states a folder holds; no part of the fingerprint."""

    experiment: str
    fold: int
    epochs: int
    """Epochs of the whole training."""

    def write(self, folder: Path) -> None:
        """Note it in a folder of states, once."""
        if not (folder / _ABOUT).exists():
            write_json(folder / _ABOUT, vars(self))

    @staticmethod
    def read(folder: Path) -> "About | None":
        """What a folder of states notes; None where it says nothing of use."""
        try:
            tree = read_json(folder / _ABOUT, TrainingError, "")
            return About(str(tree["experiment"]), int(tree["fold"]), int(tree["epochs"]))
        except (TrainingError, KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class StoredTraining:
    """The states of one training."""

    folder: Path
    about: About | None
    """None where the folder does not tell."""
    epoch: int | None
    """Epochs that are done; None where there is no state yet."""
    size: int
    """Bytes."""
    written: float
    """When its newest file was written, seconds since 1970."""

    @property
    def identity(self) -> str:
        """Start of the training's fingerprint."""
        return self.folder.name.removeprefix(".").removesuffix(PARTIAL_SUFFIX)[:_ID_DIGITS]


def stored_trainings(parent: Path) -> list[StoredTraining]:
    """Trainings with states, those left alone for the longest time first.

    Args:
        parent: holds a folder of states a fingerprint.
    """
    folders = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    return sorted((_look(folder) for folder in folders), key=lambda found: (found.written, found.folder.name))


def _look(folder: Path) -> StoredTraining:
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a training that goes on replaces its states
            files.append((path.name, path.stat()))
    epochs = [int(match[1]) for name, _ in files if (match := STATE_NAME.fullmatch(name))]
    size = sum(status.st_size for _, status in files)
    written = max((status.st_mtime for _, status in files), default=folder.stat().st_mtime)
    return StoredTraining(folder, About.read(folder), max(epochs, default=None), size, written)


def retired_name(folder: Path) -> Path:
    """Where a folder of states waits for its removal."""
    return folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")


def remove(folder: Path) -> None:
    """Remove a folder of states, at once: a state without the best weights it speaks of could never be finished.

    Args:
        folder: one that `stored_trainings` found, or that a training has just published.
    """
    if not folder.exists():
        return
    if folder.name.endswith(PARTIAL_SUFFIX):
        retired = folder  # a removal that was killed
    else:
        retired = retired_name(folder)
        shutil.rmtree(retired, ignore_errors=True)
        folder.rename(retired)
    shutil.rmtree(retired)
