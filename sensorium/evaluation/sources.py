"""What is scored: the predictions of the experiments, their ensemble, and the noise ceiling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensorium.data.store import MouseStore
from sensorium.inference.predictions import Predictions
from sensorium.inference.weights import combine

TEACHER = "teacher"
STUDENT = "student"
ENSEMBLE = "ensemble"
"""Mean of all members, weighted where weights are fitted."""
EQUAL = "equal_weights"
"""Plain mean of all members, where `ENSEMBLE` is a weighted one."""
CEILING = "ceiling"
"""The noiseless rate where it is known: no prediction from the stimulus correlates better on average."""


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions of several experiments, and what follows from them."""

    members: Mapping[str, Predictions]
    """Folder of predictions by name, such as `TEACHER`."""
    weights: Callable[[str, int], Sequence[float]] | None = None
    """Weight of each member for a mouse and trial; None averages with equal weights."""

    def load(self, store: MouseStore, trial: int) -> dict[str, NDArray[np.float32]]:
        """Read one trial once for all sources.

        Args:
            store: the mouse.
            trial: a labelled trial.

        Returns:
            (N, L) by source: the members; `ENSEMBLE` where there are several, and `EQUAL` beside a weighted
            one; `CEILING` where it is known.

        Raises:
            PredictionError: a member lacks the trial, or what it has is not of this trial.
        """
        found = self.load_members(store, trial)
        parts = list(found.values())
        if len(parts) > 1:
            found[ENSEMBLE] = combine(parts, self.weights and self.weights(store.name, trial))
        if len(parts) > 1 and self.weights is not None:
            found[EQUAL] = combine(parts, None)
        truth = store.truth(trial)
        if truth is not None:
            found[CEILING] = truth.T
        return found

    def load_members(self, store: MouseStore, trial: int) -> dict[str, NDArray[np.float32]]:
        """Read one trial of the members alone; arguments and errors as of `load`."""
        shape = (store.neurons, int(store.lengths[trial]))
        return {name: member.load(store.name, trial, shape) for name, member in self.members.items()}
