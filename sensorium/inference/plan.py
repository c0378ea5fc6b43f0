"""Which trained folds predict which trials."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.inference.job import Assignment
from sensorium.inference.trained import Trained
from sensorium.mice import FOLDS_SPLIT, MouseSet
from sensorium.paths import Paths

Choice = MouseSet | Literal["all"]
"""Which mice to predict."""


def chosen_mice(config: Config, split: str, choice: Choice | None = None) -> list[str]:
    """Names of the mice to predict, in the order of params.yaml.

    Args:
        config: all settings.
        split: `folds` or a test tier.
        choice: by default all for `folds`, and for a test tier the new ones, whose responses are withheld.
    """
    wanted = choice or ("all" if split == FOLDS_SPLIT else "new")
    return [mouse for mouse, mouse_set in config.dataset.mice.items() if wanted in ("all", mouse_set)]


def plan(paths: Paths, stores: Sequence[MouseStore], split: str, trained: Trained) -> list[Assignment]:
    """Choose trials and models for a split.

    Args:
        paths: the project, for its fold table.
        stores: the mice to predict.
        split: `folds` or a test tier.
        trained: the models; for `folds` every experiment with the same folds.

    Raises:
        PredictionError: there is nothing to predict.
    """
    if split == FOLDS_SPLIT:
        found = _plan_out_of_fold(stores, Folds.load(paths.folds), trained)
    else:
        found = _plan_tier(stores, split, trained)
    if not found:
        names = ", ".join(store.name for store in stores) or "any mouse"
        raise PredictionError(
            f"split {split}: no trial of {names} belongs to it.", "Choose another split, or other mice with `-d`."
        )
    return found


def _plan_out_of_fold(stores: Sequence[MouseStore], folds: Folds, trained: Trained) -> list[Assignment]:
    """Every labelled trial for the models that have not learnt from it: those of its own fold."""
    numbers = sorted({fold for team in trained.values() for fold in team})
    return [
        Assignment(store, trials, {name: [team[fold]] for name, team in trained.items()})
        for store in stores
        for fold in numbers
        if (trials := np.flatnonzero(folds.of(store.name) == fold).tolist())
    ]


def _plan_tier(stores: Sequence[MouseStore], tier: str, trained: Trained) -> list[Assignment]:
    """Every trial of the tier for the mean of all folds."""
    teams = {name: [folder for _, folder in sorted(team.items())] for name, team in trained.items()}
    return [
        Assignment(store, trials, teams) for store in stores if (trials := np.flatnonzero(store.tiers == tier).tolist())
    ]
