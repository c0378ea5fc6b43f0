"""What the report shows, gathered from the outputs of other stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensorium import seeding
from sensorium.data.store import MouseStore
from sensorium.inference.ensemble import combine
from sensorium.inference.predictions import Predictions
from sensorium.mice import FRAMES_PER_SECOND

SINGLE_TRIAL = "single_trial_correlation"
ALL = "all"
"""Every mouse, fold or tier in the tables; the report depends on their content, not on their code."""
_RESAMPLES = 1000
_QUANTILES = {"good": 0.95, "median": 0.5, "bad": 0.05}
"""Which neurons represent the others, by the quantile of their correlation."""


@dataclass(frozen=True)
class Trace:
    """One neuron in one trial."""

    label: str
    unit: int
    correlation: float
    """Over all trials, not this one alone."""
    seconds: NDArray[np.float64]
    measured: NDArray[np.float32]
    predicted: NDArray[np.float32]
    noiseless: NDArray[np.float32] | None


@dataclass(frozen=True)
class Material:
    """Everything that the report shows."""

    scores: pd.DataFrame
    """scores.csv."""
    neurons: pd.DataFrame
    """neurons.parquet."""
    folds: Mapping[str, Any]
    """Report of the folds stage."""
    histories: Mapping[str, Mapping[int, pd.DataFrame]]
    """What each epoch gave, by experiment and fold."""
    traces: Sequence[Trace]
    trace_title: str
    first_frame: int
    facts: Sequence[tuple[str, str]]
    """What made the results: name and value."""

    @property
    def sources(self) -> list[str]:
        """Scored sources in their order: experiments, what is averaged, the ceiling."""
        return list(self.scores["source"].unique())

    @property
    def mice(self) -> list[str]:
        """Names of the mice, in their order."""
        return [mouse for mouse in self.scores["mouse"].unique() if mouse != ALL]

    def correlations(self, mouse: str, source: str) -> NDArray[np.float64]:
        """(N,) single-trial correlation of each neuron of a mouse, or of `all`; empty where it is unknown."""
        rows = (self.neurons["source"] == source) & ((self.neurons["mouse"] == mouse) | (mouse == ALL))
        return self.neurons.loc[rows, SINGLE_TRIAL].to_numpy(np.float64)

    def pooled(self, metric: str = SINGLE_TRIAL) -> pd.DataFrame:
        """One metric over all folds and tiers by source (rows) and mouse (columns)."""
        rows = self.scores[(self.scores["fold"].astype(str) == ALL) & (self.scores["tier"] == ALL)]
        return rows.pivot_table(index="source", columns="mouse", values=metric, sort=False)


def bootstrap(values: NDArray[np.float64], seed: int, *place: int) -> tuple[float, float]:
    """95 % interval of the mean when neurons are drawn again and again.

    It shows how much the choice of neurons matters; neurons of one mouse share their trials, so it
    does not show how another recording would score.

    Args:
        values: (N,) correlations.
        seed: the run's seed.
        place: coordinates of this draw.
    """
    rng = seeding.generator(seed, "bootstrap", *place)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def choose_neurons(correlations: NDArray[np.float64]) -> dict[str, int]:
    """A good, a median and a bad neuron, by position."""
    order = np.argsort(correlations, kind="stable")
    return {label: int(order[round(quantile * (len(order) - 1))]) for label, quantile in _QUANTILES.items()}


def trial_to_show(store: MouseStore, folds: NDArray[np.int64]) -> int:
    """The first predicted trial of the tier oracle, else the first predicted one."""
    predicted = np.flatnonzero(folds >= 0)
    oracle = predicted[store.tiers[predicted] == "oracle"]
    return int(oracle[0] if len(oracle) else predicted[0])


def traces(
    store: MouseStore,
    trial: int,
    members: Sequence[Predictions],
    correlations: NDArray[np.float64],
    weights: Sequence[float] | None = None,
) -> list[Trace]:
    """Measured and predicted responses of a good, a median and a bad neuron.

    Args:
        store: the mouse.
        trial: which trial to show.
        members: their mean is shown.
        correlations: (N,) of that mean.
        weights: one per member; None for equal weights.
    """
    shape = (store.neurons, int(store.lengths[trial]))
    predicted = combine([member.load(store.name, trial, shape) for member in members], weights)
    measured, truth = store.responses(trial), store.truth(trial)
    return [
        Trace(
            label,
            int(store.unit_ids[neuron]),
            float(correlations[neuron]),
            np.arange(shape[1]) / FRAMES_PER_SECOND,
            measured[:, neuron],
            predicted[neuron],
            None if truth is None else truth[:, neuron],
        )
        for label, neuron in choose_neurons(correlations).items()
    ]
