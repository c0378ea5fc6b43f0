"""What is scored: the predictions of the experiments, their mean, and the noise ceiling."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensorium.data.store import MouseStore
from sensorium.inference.predictions import Predictions

TEACHER = "teacher"
STUDENT = "student"
ENSEMBLE = "ensemble"
"""Mean of all members."""
CEILING = "ceiling"
"""The noiseless rate where it is known: no prediction from the stimulus correlates better on average."""


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions of several experiments, and what follows from them."""

    members: Mapping[str, Predictions]
    """Folder of predictions by name, such as `TEACHER`."""

    def load(self, store: MouseStore, trial: int) -> dict[str, NDArray[np.float32]]:
        """Read one trial once for all sources.

        Args:
            store: the mouse.
            trial: a labelled trial.

        Returns:
            (N, L) by source: the members, `ENSEMBLE` where there are several, `CEILING` where it is known.

        Raises:
            PredictionError: a member lacks the trial, or what it has is not of this trial.
        """
        shape = (store.neurons, int(store.lengths[trial]))
        found = {name: member.load(store.name, trial, shape) for name, member in self.members.items()}
        if len(found) > 1:
            found[ENSEMBLE] = np.mean(list(found.values()), axis=0, dtype=np.float32)
        truth = store.truth(trial)
        if truth is not None:
            found[CEILING] = truth.T
        return found
