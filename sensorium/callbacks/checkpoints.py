"""Checkpoints of an unfinished training: whole or absent, verified when read, the last two kept.

A checkpoint's file name holds its position and the start of its SHA-256, so a damaged one is noticed and the
one before it is used. Weights of the best epoch lie in files of their own, since they seldom change. A training
removes its folder of checkpoints when it has finished; those of settings that were given up stay until they are
removed by hand, since the user may come back to them.
"""

import contextlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sensorium.errors import TrainingError
from sensorium.files import PARTIAL_SUFFIX, atomic_file, read_json, sha256, write_json

DIGITS = 16
FILE_NAME = re.compile(rf"(\d{{6}})-(\d{{9}})-([0-9a-f]{{{DIGITS}}})\.pt")
"""Epoch and step to continue with, and the start of the file's SHA-256."""
_ABOUT = "training.json"
_ID_DIGITS = 12


@dataclass(frozen=True)
class TrainingInfo:
    """Which training a folder of checkpoints belongs to; no part of the fingerprint."""

    experiment: str
    fold: int
    epochs: int
    """Epochs of the whole training."""

    @staticmethod
    def read(folder: Path) -> "TrainingInfo | None":
        """Read it from a folder of checkpoints; None where the file is missing or damaged."""
        try:
            return TypeAdapter(TrainingInfo).validate_python(read_json(folder / _ABOUT, TrainingError, ""))
        except (TrainingError, ValidationError):
            return None


KEPT = 2
"""Number of checkpoints, and of best weights, that are kept."""
_UNNAMED = "unnamed.pt"


class CheckpointFolder:
    """The checkpoints of one training, which `fingerprint` identifies; only one process may write."""

    def __init__(self, parent: Path, fingerprint: str, info: TrainingInfo | None = None) -> None:
        """Name the folder below `parent`; it is created with the first checkpoint, and `info` is written into it."""
        self.path = parent / fingerprint
        self._info = info

    def tidy(self) -> None:
        """Remove what a killed process left unfinished; only for the holder of the fold's lock."""
        for partial in [*self.path.glob(f".*{PARTIAL_SUFFIX}"), self.path / _UNNAMED]:
            partial.unlink(missing_ok=True)
        shutil.rmtree(retired_name(self.path), ignore_errors=True)

    def save(self, epoch: int, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint and remove those that are too old.

        Args:
            epoch: epoch to continue with.
            step: step of that epoch to continue with.
            state: of model, optimizer and history: tensors, numbers, strings, and lists and dicts of these.

        Raises:
            TrainingError: the disk is full or refuses; earlier checkpoints are untouched.
        """
        unnamed = self.path / _UNNAMED
        try:
            with atomic_file(unnamed) as partial, partial.open("wb") as stream:
                torch.save({"epoch": epoch, "step": step, **state}, stream)
            if self._info is not None and not (self.path / _ABOUT).exists():
                write_json(self.path / _ABOUT, vars(self._info))
            unnamed.rename(self.path / f"{epoch:06d}-{step:09d}-{sha256(unnamed)[:DIGITS]}.pt")
        except (OSError, RuntimeError) as fault:  # torch turns some failed writes into a RuntimeError
            raise self._refused(fault) from fault
        self._remove_old()

    def save_best(self, epoch: int, weights: dict[str, Tensor]) -> None:
        """Write the weights of an epoch that no other has beaten.

        Raises:
            TrainingError: the disk is full or refuses; the best weights before are untouched.
        """
        try:
            with atomic_file(self._best(epoch)) as partial:
                save_file({name: value.contiguous() for name, value in weights.items()}, partial)
        except (OSError, SafetensorError) as fault:
            raise self._refused(fault) from fault

    def load_best(self, epoch: int) -> dict[str, Tensor]:
        """Read the weights of an epoch that `save_best` wrote.

        Raises:
            TrainingError: they cannot be read.
        """
        try:
            return load_file(self._best(epoch))
        except (OSError, SafetensorError) as fault:
            raise TrainingError(
                f"{self._best(epoch)}: the best weights cannot be read ({fault}).",
                f"Remove {self.path} and train this fold again.",
            ) from fault

    def latest(self, notify: Callable[[str], None]) -> Path | None:
        """The latest checkpoint that is whole; None where there is none.

        Args:
            notify: takes a sentence about each damaged checkpoint, which is removed.
        """
        for path in reversed(self._checkpoints()):
            match = FILE_NAME.fullmatch(path.name)
            assert match is not None
            if sha256(path).startswith(match[3]):
                return path
            notify(f"{path} is damaged and was removed; training continues from the one before it.")
            path.unlink()
        return None

    @staticmethod
    def load(path: Path) -> dict[str, Any]:
        """Read a checkpoint that `latest` found, onto the CPU."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def _best(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:06d}.safetensors"

    def _checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.path.glob("*.pt") if FILE_NAME.fullmatch(path.name))

    def _remove_old(self) -> None:
        best = sorted(self.path.glob("best-*.safetensors"))
        for path in [*self._checkpoints()[:-KEPT], *best[:-KEPT]]:
            path.unlink()

    def _refused(self, fault: Exception) -> TrainingError:
        return TrainingError(
            f"{self.path}: the checkpoint cannot be written ({fault}).",
            "Free disk space and run the same command again: it continues from the last checkpoint.",
        )


@dataclass(frozen=True)
class StoredTraining:
    """The checkpoints of one training, as `sensorium checkpoints` lists them."""

    folder: Path
    info: TrainingInfo | None
    """None where its file is missing or damaged."""
    epoch: int | None
    """Epochs that are done; None where there is no checkpoint yet."""
    size: int
    """Bytes."""
    written: float
    """When its newest file was written, seconds since 1970."""

    @property
    def identity(self) -> str:
        """Start of the training's fingerprint."""
        return self.folder.name.removeprefix(".").removesuffix(PARTIAL_SUFFIX)[:_ID_DIGITS]


def stored_checkpoints(parent: Path) -> list[StoredTraining]:
    """Unfinished trainings with checkpoints, the oldest first."""
    folders = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    return sorted((_look(folder) for folder in folders), key=lambda found: (found.written, found.folder.name))


def _look(folder: Path) -> StoredTraining:
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a running training replaces its checkpoints
            files.append((path.name, path.stat()))
    epochs = [int(match[1]) for name, _ in files if (match := FILE_NAME.fullmatch(name))]
    size = sum(status.st_size for _, status in files)
    written = max((status.st_mtime for _, status in files), default=folder.stat().st_mtime)
    return StoredTraining(folder, TrainingInfo.read(folder), max(epochs, default=None), size, written)


def retired_name(folder: Path) -> Path:
    """Name of a folder of checkpoints while it is removed."""
    return folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")


def remove(folder: Path) -> None:
    """Remove a folder of checkpoints in one step: a checkpoint without its best weights is of no use."""
    if not folder.exists():
        return
    if not folder.name.endswith(PARTIAL_SUFFIX):  # one that ends so is left of a removal that was killed
        retired = retired_name(folder)
        shutil.rmtree(retired, ignore_errors=True)
        folder = folder.rename(retired)
    shutil.rmtree(folder)
