"""States to go on from: whole or absent, checked when read, the last two kept.

A state's file name holds its position and the start of its SHA-256, so a damaged one is noticed and the
one before it is taken. Weights of the best epoch lie in files of their own, since they seldom change.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sensorium.errors import TrainingError
from sensorium.files import PARTIAL_SUFFIX, atomic_file, sha256
from sensorium.training.states import DIGITS, STATE_NAME, About, remove, retired_name

KEPT = 2
"""How many states, and how many best weights, are kept."""

_UNNAMED = "unnamed.pt"

State = dict[str, Any]
"""Tensors, numbers, strings, and lists and dicts of these."""


class ResumeFolder:
    """The states of one training, which `fingerprint` identifies; only one process may write."""

    def __init__(self, parent: Path, fingerprint: str, about: About | None = None) -> None:
        """Name the folder; it appears with the first state.

        Args:
            parent: holds the folders of all trainings.
            fingerprint: what the training depends on.
            about: what the folder tells of itself.
        """
        self.path = parent / fingerprint
        self._about = about

    def tidy(self) -> None:
        """Remove what a killed process left unfinished; only for the holder of the fold's lock."""
        for partial in [*self.path.glob(f".*{PARTIAL_SUFFIX}"), self.path / _UNNAMED]:
            partial.unlink(missing_ok=True)
        shutil.rmtree(retired_name(self.path), ignore_errors=True)

    def save(self, epoch: int, step: int, state: State) -> None:
        """Write a state and remove those that are too old.

        Args:
            epoch: epoch to go on with.
            step: step of that epoch to go on with.
            state: everything that the position does not tell.

        Raises:
            TrainingError: the disk is full or refuses; the states before this one are untouched.
        """
        unnamed = self.path / _UNNAMED
        try:
            with atomic_file(unnamed) as partial, partial.open("wb") as stream:
                torch.save({"epoch": epoch, "step": step, **state}, stream)
            self._describe()
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
        except Exception as fault:  # safetensors raises a class of its own for input and output
            raise self._refused(fault) from fault

    def load_best(self, epoch: int) -> dict[str, Tensor]:
        """Read the weights of an epoch that `save_best` wrote.

        Raises:
            TrainingError: they cannot be read.
        """
        try:
            return load_file(self._best(epoch))
        except Exception as fault:
            raise TrainingError(
                f"{self._best(epoch)}: the best weights cannot be read ({fault}).",
                f"Remove {self.path} and train this fold again.",
            ) from fault

    def latest(self, notify: Callable[[str], None]) -> Path | None:
        """The latest state that is whole; None where there is none.

        Args:
            notify: takes a sentence about each damaged state, which is removed.
        """
        for path in reversed(self._states()):
            match = STATE_NAME.fullmatch(path.name)
            assert match is not None
            if sha256(path).startswith(match[3]):
                return path
            notify(f"{path} is damaged and was removed; training goes on from the state before it.")
            path.unlink()
        return None

    @staticmethod
    def load(path: Path) -> State:
        """Read a state that `latest` found, onto the CPU."""
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def remove(self) -> None:
        """Remove everything: the training is published."""
        remove(self.path)

    def _describe(self) -> None:
        if self._about is not None:
            self._about.write(self.path)

    def _best(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:06d}.safetensors"

    def _states(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.path.glob("*.pt") if STATE_NAME.fullmatch(path.name))

    def _remove_old(self) -> None:
        for path in self._states()[:-KEPT]:
            path.unlink()
        for path in sorted(self.path.glob("best-*.safetensors"))[:-KEPT]:
            path.unlink()

    def _refused(self, fault: Exception) -> TrainingError:
        return TrainingError(
            f"{self.path}: the state of the training cannot be written ({fault}).",
            "Free disk space and run the same command again: it goes on from the last state, which is untouched.",
        )
