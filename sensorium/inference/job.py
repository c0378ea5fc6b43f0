"""A whole folder of predictions: which models predict which trials, and what decides its bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sensorium import __version__, files
from sensorium.config import PredictionConfig, WindowConfig
from sensorium.data.store import MouseStore
from sensorium.inference.sliding import trial_groups
from sensorium.inference.weights import Weights
from sensorium.model import checkpoint

_CODE = ("data/inputs.py", "data/windows.py", "inference/*.py", "model/*.py")
_SOURCES = Path(__file__).parents[1]

Teams = Mapping[str, Sequence[Path]]
"""Trained folds by experiment: the mean is taken within each experiment first, then over experiments."""


@dataclass(frozen=True)
class Assignment:
    """Trials of one mouse and the models that predict them."""

    store: MouseStore
    trials: Sequence[int]
    teams: Teams

    def provenance(self, digests: Mapping[Path, str]) -> dict[str, Any]:
        """What identifies the trials and the models, independent of where they lie."""
        return {
            "mouse": self.store.name,
            "neurons": self.store.neurons,
            "recordings": files.digest_json(self.store.sources),
            "trials": {"count": len(self.trials), "digest": files.digest_json(list(self.trials))},
            "weights": {name: [digests[folder] for folder in team] for name, team in self.teams.items()},
        }


@dataclass(frozen=True)
class Job:
    """Everything that decides the content of a folder of predictions."""

    split: str
    assignments: Sequence[Assignment]
    window: WindowConfig
    config: PredictionConfig
    device: str
    """Type of the device: cpu or cuda; their roundings differ."""
    weights: Weights | None = None
    """Weight of each experiment where there are several; None gives all of them the same say."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What `provenance.json` tells of the inputs."""
        folders = {folder for part in self.assignments for team in part.teams.values() for folder in team}
        digests = {folder: checkpoint.digest(folder) for folder in sorted(folders)}
        return {
            "code_version": __version__,
            "device": self.device,
            "split": self.split,
            "window": self.window.model_dump(mode="json"),
            "prediction": self.config.model_dump(mode="json"),
            "assignments": [part.provenance(digests) for part in self.assignments],
        } | ({} if self.weights is None else {"ensemble_weights": dict(self.weights)})

    @cached_property
    def fingerprint(self) -> str:
        """Name of the working folder: the provenance, the libraries and the code that predicts."""
        code = {
            path.relative_to(_SOURCES).as_posix(): files.sha256(path)
            for part in _CODE
            for path in sorted(_SOURCES.glob(part))
        }
        return files.digest_json([self.provenance, torch.__version__, code])

    @property
    def frames(self) -> int:
        """Number of frames to predict."""
        return sum(int(part.store.lengths[part.trials].sum()) for part in self.assignments)

    def groups(self) -> list[tuple[int, list[int]]]:
        """Position of the assignment and trials of each group that is predicted together."""
        found = []
        for position, part in enumerate(self.assignments):
            lengths = [int(part.store.lengths[trial]) for trial in part.trials]
            for group in trial_groups(lengths, self.window, self.config.batch_size):
                found.append((position, [part.trials[i] for i in group]))
        return found
