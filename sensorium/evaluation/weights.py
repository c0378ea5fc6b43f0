"""Weights of an ensemble, fitted on out-of-fold predictions, and what they gain.

The official score of a weighted mean depends on the trials through the means and products of responses
and predictions alone: (K + 1)^2 numbers per neuron for K experiments. One pass over the trials gathers
them, fold by fold, and memory does not grow with the trials. The weights that maximise the score on all
folds are for predictions of new trials. Their own score would flatter them, so the gain is measured on
each fold with weights fitted on the others.

K experiments, N neurons of one mouse, T scored frames of a trial.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from sensorium.config import EvaluationConfig
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.evaluation.scores import scored_precision
from sensorium.files import Record
from sensorium.metrics import STD_EPSILON, StreamingCorrelation, reduce_together

FloatArray = NDArray[np.float64]

_DIGITS = 4
"""Decimals of a weight: finer ones mean nothing, and differ between processors."""
_START = 0.8
"""Weight of one experiment in the points, besides equal weights, from which the search starts."""


class Moments:
    """Means and products about the means of responses (first) and K predictions, of each neuron."""

    def __init__(self, neurons: int, members: int) -> None:
        self.frames = 0
        self.mean = np.zeros((neurons, members + 1))
        self.products = np.zeros((neurons, members + 1, members + 1))

    def update(self, series: Sequence[NDArray[np.floating]], scale: NDArray[np.floating] | None = None) -> None:
        """Append frames: responses, then the prediction of each experiment, all (N, T), times a scale (N, T)."""
        frames = series[0].shape[1]
        if frames == 0:
            return
        self._combine(frames, *reduce_together(series, scale))

    def merge(self, other: Self) -> None:
        """Append the frames that another one of the same neurons has seen."""
        if other.frames:
            self._combine(other.frames, other.mean, other.products)

    def _combine(self, frames: int, mean: FloatArray, products: FloatArray) -> None:
        """Pairwise update of Chan, Golub and LeVeque (1983), as in `StreamingCorrelation`."""
        total = self.frames + frames
        shift = mean - self.mean
        self.products += products + shift[:, :, None] * shift[:, None, :] * (self.frames * frames / total)
        self.mean += shift * (frames / total)
        self.frames = total

    def stream(self, weights: FloatArray) -> StreamingCorrelation:
        """Responses and the weighted mean of the predictions, as if they had passed frame by frame."""
        square = np.einsum("nij,i,j->n", self.products[:, 1:, 1:], weights, weights)
        moments = np.stack([self.products[:, 0, 0], square, self.products[:, 0, 1:] @ weights])
        mean = np.stack([self.mean[:, 0], self.mean[:, 1:] @ weights])
        return StreamingCorrelation.of(self.frames, mean, moments)


def gather(
    store: MouseStore,
    folds: NDArray[np.int64],
    load: Callable[[MouseStore, int], Mapping[str, NDArray[np.floating]]],
    config: EvaluationConfig,
) -> dict[int, Moments]:
    """Moments of one mouse by fold, in one pass over its trials.

    Args:
        store: the mouse.
        folds: (trials,) fold of each trial, negative for those that do not count.
        load: reads the K predictions (N, L) of a trial.
        config: which frames count.
    """
    scored, precision = scored_precision(store, config)
    found: dict[int, Moments] = {}
    for trial in np.flatnonzero(folds >= 0).tolist():
        whole = [np.ascontiguousarray(store.responses(trial).T), *load(store, trial).values()]
        series = [values[:, scored] for values in whole]
        moments = found.setdefault(int(folds[trial]), Moments(store.neurons, len(series) - 1))
        moments.update(series, precision[:, : series[0].shape[1]])
    return found


class FoldGain(Record):
    """One fold, scored with weights that were fitted on the others, and with equal weights."""

    weights: dict[str, float]
    fitted: float
    equal: float


class Gain(Record):
    """Single-trial correlation of all folds together, each with the weights fitted on the others."""

    fitted: float
    equal: float
    """The same with equal weights."""
    gain: float
    """Their difference."""


class EnsembleWeights(Record):
    """The weights of an ensemble by experiment and, where they are fitted, what they gain: weights.json."""

    method: Literal["fitted", "equal"]
    weights: dict[str, float]
    """Fitted on all folds: for trials of no fold."""
    nested: Gain | None = None
    folds: dict[int, FoldGain] | None = None
    trained: dict[str, str] | None = None
    """Digest of the trained folds of each experiment."""


def _equal(members: int) -> FloatArray:
    return np.full(members, 1 / members)


def fit(mice: Sequence[Mapping[int, Moments]], names: Sequence[str]) -> EnsembleWeights:
    """Fit weights on all folds, and measure their gain by leaving each fold out.

    Args:
        mice: moments by fold, of every mouse.
        names: of the K experiments.

    Raises:
        PredictionError: there are fewer than two folds, hence nothing to measure the gain on.
    """
    folds = sorted({fold for mouse in mice for fold in mouse})
    if len(folds) < 2:
        raise PredictionError(
            f"ensemble.weights: fitting needs out-of-fold predictions of two folds at least, found {len(folds)}.",
            "Train more folds (`folds.train` of params.yaml), or set ensemble.weights to equal.",
        )

    def fitted_on(chosen: Sequence[int]) -> FloatArray:
        return maximise([_pool(mouse, chosen) for mouse in mice])

    def named(weights: FloatArray) -> dict[str, float]:
        return dict(zip(names, weights.tolist(), strict=True))

    nested = {fold: fitted_on([other for other in folds if other != fold]) for fold in folds}
    equal = dict.fromkeys(folds, _equal(len(names)))
    fitted, plain = _score(mice, nested), _score(mice, equal)
    gains = {
        fold: FoldGain(
            weights=named(nested[fold]),
            fitted=_score(mice, {fold: nested[fold]}),
            equal=_score(mice, {fold: equal[fold]}),
        )
        for fold in folds
    }
    gain = Gain(fitted=fitted, equal=plain, gain=fitted - plain)
    return EnsembleWeights(method="fitted", weights=named(fitted_on(folds)), nested=gain, folds=gains)


def _pool(mouse: Mapping[int, Moments], folds: Sequence[int]) -> Moments:
    """Moments of several folds of one mouse."""
    neurons, series = next(iter(mouse.values())).mean.shape
    pool = Moments(neurons, series - 1)
    for fold in sorted(set(folds) & set(mouse)):
        pool.merge(mouse[fold])
    return pool


def _score(mice: Sequence[Mapping[int, Moments]], weights: Mapping[int, FloatArray]) -> float:
    """Official single-trial correlation over the neurons of all mice, each fold with weights of its own."""
    found = []
    for mouse in mice:
        stream = StreamingCorrelation(len(next(iter(mouse.values())).mean))
        for fold in sorted(set(weights) & set(mouse)):
            stream.merge(mouse[fold].stream(weights[fold]))
        found.append(stream.correlation())
    return float(np.concatenate(found).mean())


def maximise(mice: Sequence[Moments]) -> FloatArray:
    """Weights, none negative and of sum one, that maximise the mean correlation over all neurons.

    The search (sequential quadratic programming, SciPy) starts from equal weights and from points near
    each experiment alone; equal weights stay where nothing is better.

    Args:
        mice: moments of every mouse.

    Returns:
        (K,) rounded.
    """
    from scipy.optimize import minimize

    members = mice[0].mean.shape[1] - 1
    objective = _Objective(mice)
    best, found = objective(_equal(members))[0], _equal(members)
    apart = (1 - _START) / max(members - 1, 1)
    starts = [_equal(members), *(np.where(np.eye(members, dtype=bool)[k], _START, apart) for k in range(members))]
    for start in starts if members > 1 else ():
        end = minimize(
            objective, start, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * members,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}, options={"ftol": 1e-10},
        )  # fmt: skip
        rounded = _rounded(end.x)
        loss = objective(rounded)[0]
        if loss < best:
            best, found = loss, rounded
    return found


def _rounded(weights: FloatArray) -> FloatArray:
    """Weights of few decimals whose sum is one."""
    rounded = np.round(np.clip(weights, 0, None) / np.clip(weights, 0, None).sum(), _DIGITS)
    rounded[rounded.argmax()] += 1 - rounded.sum()
    return np.asarray(np.round(rounded, _DIGITS), np.float64)


class _Objective:
    """Minus the mean correlation over all neurons, and its gradient with respect to the weights."""

    def __init__(self, mice: Sequence[Moments]) -> None:
        products = np.concatenate([part.products / max(part.frames, 1) for part in mice])
        self._neurons = len(products)
        usable = np.isfinite(products).all((1, 2)) & (products[:, 0, 0] > 0)
        products = products[usable]
        self._square = products[:, 1:, 1:]
        self._cross = products[:, 0, 1:] / (np.sqrt(products[:, :1, 0]) + STD_EPSILON)

    def __call__(self, weights: FloatArray) -> tuple[float, FloatArray]:
        slope = self._square @ weights  # (n, K)
        variance = slope @ weights
        varies = variance > 0
        std = np.sqrt(variance[varies])[:, None]
        cross = self._cross[varies] / (std + STD_EPSILON)
        correlation = cross @ weights
        gradient = cross - correlation[:, None] * slope[varies] / (std * (std + STD_EPSILON))
        return -float(correlation.sum()) / self._neurons, -gradient.sum(0) / self._neurons
