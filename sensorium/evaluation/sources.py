"""What is scored: the predictions of the experiments, what they are averaged to, and the noise ceiling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sensorium.config import EnsembleConfig, RegistryConfig
from sensorium.data.store import MouseStore
from sensorium.inference.ensemble import combine
from sensorium.inference.predictions import Predictions

ENSEMBLE = "ensemble"
"""Mean of the members of the ensemble, weighted where weights are fitted."""
PAIR = "pair"
"""Plain mean of the registered teacher and student, where they are not the members of the ensemble."""
EQUAL = "equal_weights"
"""Plain mean of the members of the ensemble, where `ENSEMBLE` is a weighted one."""
CEILING = "ceiling"
"""The noiseless rate where it is known: no prediction from the stimulus correlates better on average."""
DERIVED = (ENSEMBLE, PAIR, EQUAL, CEILING)
"""Sources that are no experiment, in their order; no experiment may have such a name."""

Experiments = Mapping[str, Predictions]
"""Out-of-fold predictions by the name of the experiment."""


def load_all(experiments: Experiments, store: MouseStore, trial: int) -> dict[str, NDArray[np.float32]]:
    """Read the prediction of one trial by every experiment.

    Args:
        experiments: what to read.
        store: the mouse.
        trial: a labelled trial.

    Returns:
        (N, L) by experiment.

    Raises:
        PredictionError: an experiment lacks the trial, or what it has is not of this trial.
    """
    shape = (store.neurons, int(store.lengths[trial]))
    return {name: predictions.load(store.name, trial, shape) for name, predictions in experiments.items()}


def means(ensemble: EnsembleConfig, registry: RegistryConfig) -> dict[str, list[str]]:
    """Experiments that are averaged, by the name of their mean."""
    members, pair = sorted(ensemble.members), sorted({registry.teacher, registry.student})
    return {ENSEMBLE: members} | ({} if pair == members else {PAIR: pair})


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions of all experiments, and what follows from them."""

    experiments: Experiments
    means: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Experiments that are averaged, by the name of their mean."""
    weights: Callable[[str, int], Sequence[float]] | None = None
    """Weight of each member of `ENSEMBLE` for a mouse and trial; None averages with equal weights."""

    def load(self, store: MouseStore, trial: int) -> dict[str, NDArray[np.float32]]:
        """Read one trial once for all sources.

        Args:
            store: the mouse.
            trial: a labelled trial.

        Returns:
            (N, L) by source: the experiments; the means, and `EQUAL` beside a weighted `ENSEMBLE`; `CEILING`
            where it is known.

        Raises:
            PredictionError: an experiment lacks the trial, or what it has is not of this trial.
        """
        found = load_all(self.experiments, store, trial)
        for mean, members in self.means.items():
            parts = [found[name] for name in members]
            weights = self.weights(store.name, trial) if self.weights and mean == ENSEMBLE else None
            found[mean] = combine(parts, weights)
            if weights is not None:
                found[EQUAL] = combine(parts, None)
        truth = store.truth(trial)
        if truth is not None:
            found[CEILING] = truth.T
        return found
