"""What a folder of predictions consists of: which trained folds predict which trials, and what decides its bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sensorium import __version__, files
from sensorium.config import PredictionConfig, WindowConfig
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.inference.ensemble import Weights
from sensorium.inference.sliding import trial_groups
from sensorium.lineage import PREDICTION_CODE, code_digests
from sensorium.mice import FOLDS_SPLIT, MouseSet
from sensorium.model import checkpoint
from sensorium.paths import Paths

Choice = MouseSet | Literal["all"]
"""Which mice to predict."""

Trained = Mapping[str, Mapping[int, Path]]
"""Folders of trained folds, by experiment and fold."""

Group = tuple[int, list[int]]
"""Position of an assignment and the trials to predict together."""


@dataclass(frozen=True)
class Assignment:
    """Trials of one mouse and the models that predict them."""

    store: MouseStore
    trials: Sequence[int]
    teams: Mapping[str, Sequence[Path]]
    """Trained folds by experiment: the mean is taken within each experiment first, then over experiments."""

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
class PredictionJob:
    """Everything that decides the content of a folder of predictions."""

    split: str
    assignments: Sequence[Assignment]
    window: WindowConfig
    config: PredictionConfig
    device: str
    """Type of the device: cpu or cuda; their roundings differ."""
    weights: Weights | None = None
    """Weight of each experiment where there are several; None gives all of them the same weight."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What `provenance.json` holds about the inputs."""
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
        return files.digest_json([self.provenance, torch.__version__, code_digests(PREDICTION_CODE)])

    def groups(self) -> list[Group]:
        """Trials that are predicted together."""
        found = []
        for position, part in enumerate(self.assignments):
            lengths = [int(part.store.lengths[trial]) for trial in part.trials]
            for group in trial_groups(lengths, self.window, self.config.batch_size):
                found.append((position, [part.trials[i] for i in group]))
        return found

    def frames(self, group: Group) -> int:
        """Number of frames of a group."""
        position, trials = group
        return int(self.assignments[position].store.lengths[trials].sum())


def chosen_mice(mice: Mapping[str, MouseSet], split: str, choice: Choice | None = None) -> list[str]:
    """Names of the mice to predict, in the order of params.yaml.

    Args:
        mice: all mice and their sets.
        split: `folds` or a test tier.
        choice: by default all for `folds`, and for a test tier the new ones, whose responses are withheld.
    """
    wanted = choice or ("all" if split == FOLDS_SPLIT else "new")
    return [mouse for mouse, mouse_set in mice.items() if wanted in ("all", mouse_set)]


def plan(paths: Paths, stores: Sequence[MouseStore], split: str, trained: Trained) -> list[Assignment]:
    """Choose trials and models for a split.

    Args:
        paths: the project, for its fold table.
        stores: the mice to predict.
        split: `folds`: every labelled trial is predicted by the models of its own fold, which have not learnt from
            it; a test tier: each of its trials is predicted by the mean of all folds.
        trained: the models; for `folds` every experiment with the same folds.

    Raises:
        PredictionError: there is nothing to predict.
    """
    parts = []
    if split == FOLDS_SPLIT:
        table = Folds.load(paths.folds)
        for store in stores:
            for fold in sorted({fold for team in trained.values() for fold in team}):
                teams = {name: [team[fold]] for name, team in trained.items()}
                parts.append(Assignment(store, np.flatnonzero(table.of(store.name) == fold).tolist(), teams))
    else:
        teams = {name: [folder for _, folder in sorted(team.items())] for name, team in trained.items()}
        parts = [Assignment(store, np.flatnonzero(store.tiers == split).tolist(), teams) for store in stores]
    found = [part for part in parts if part.trials]
    if not found:
        names = ", ".join(store.name for store in stores) or "any mouse"
        raise PredictionError(
            f"split {split}: no trial of {names} belongs to it.",
            "Choose another split; mice without such trials leave submission.tracks empty.",
        )
    return found
