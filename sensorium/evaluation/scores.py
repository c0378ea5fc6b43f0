"""Correlations of one mouse, accumulated over its trials in one pass.

Three figures, all over the scored frames:

* single-trial correlation, as the competition's organisers score: responses and predictions
  normalised, all trials concatenated, r per neuron, 0 where r is undefined, mean over neurons
  (arXiv:2305.19654);
* the published solution's variant: the same without normalisation, mean over mice instead of neurons;
* correlation to average: responses and predictions averaged over the repeats of a video first, so
  that trial-to-trial noise does not count against a prediction.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sensorium.config import EvaluationConfig
from sensorium.data.store import MouseStore
from sensorium.metrics import StreamingCorrelation, response_precision, update_together

ALL = "all"
"""Every fold, tier or mouse, in a table."""

Sources = Mapping[str, NDArray[np.floating]]
"""(N, L) predictions of one trial by source."""
_TARGET = ""
"""Name of the measured responses among the sources."""

Load = Callable[[MouseStore, int], Sources]
"""Reads the predictions of one trial."""


class Cell:
    """What is known of one source on one set of trials of a mouse."""

    def __init__(self, neurons: int) -> None:
        self.single_trial = StreamingCorrelation(neurons)
        self.published_variant = StreamingCorrelation(neurons)
        self.to_average = StreamingCorrelation(neurons)
        self.trials = 0

    def merge(self, other: Self) -> None:
        """Add the trials of another set."""
        self.single_trial.merge(other.single_trial)
        self.published_variant.merge(other.published_variant)
        self.to_average.merge(other.to_average)
        self.trials += other.trials


@dataclass
class MouseScores:
    """All cells of one mouse."""

    mouse: str
    unit_ids: NDArray[np.uint32]
    cells: dict[tuple[str, int, str], Cell] = field(default_factory=dict)
    """By source, fold and tier."""
    repeats: dict[tuple[str, str], StreamingCorrelation] = field(default_factory=dict)
    """Correlation to average by source and tier, over the repeats of all folds: where folds follow exact
    hashes, near-identical repeats of one video may lie in two of them."""

    @property
    def sources(self) -> list[str]:
        """Names of the scored sources, in the order of `OutOfFold.load`."""
        return list(dict.fromkeys(source for source, _, _ in self.cells))

    def pooled(self, source: str, fold: int | str = ALL, tier: str = ALL) -> Cell:
        """One source on all trials of a fold, a tier, both or neither."""
        pool = Cell(len(self.unit_ids))
        for (name, cell_fold, cell_tier), cell in sorted(self.cells.items(), key=lambda item: item[0]):
            if name == source and fold in (ALL, cell_fold) and tier in (ALL, cell_tier):
                pool.merge(cell)
        if fold == ALL:
            pool.to_average = StreamingCorrelation(len(self.unit_ids))
            for (name, cell_tier), stream in sorted(self.repeats.items(), key=lambda item: item[0]):
                if name == source and tier in (ALL, cell_tier):
                    pool.to_average.merge(stream)
        return pool

    def to_average(self, source: str, fold: int | str, tier: str) -> StreamingCorrelation:
        """Correlation to average of one source over the repeats within a fold, or of all folds."""
        if fold == ALL:
            return self.repeats.setdefault((source, tier), StreamingCorrelation(len(self.unit_ids)))
        return self.cells[source, int(fold), tier].to_average

    def subsets(self) -> list[tuple[int | str, str]]:
        """Every (fold, tier) with trials, and the pools over folds, tiers and both."""
        pairs = sorted({(fold, tier) for _, fold, tier in self.cells})
        folds = sorted({fold for fold, _ in pairs})
        tiers = sorted({tier for _, tier in pairs})
        return [(ALL, ALL), *((fold, ALL) for fold in folds), *((ALL, tier) for tier in tiers), *pairs]


def score_mouse(
    store: MouseStore,
    folds: NDArray[np.int64],
    groups: NDArray[np.unsignedinteger],
    load: Load,
    config: EvaluationConfig,
) -> MouseScores:
    """Score every source on the trials that have a fold.

    Reads each trial once; memory does not grow with the number of trials.

    Args:
        store: the mouse.
        folds: (trials,) fold of each trial, negative for those that are not scored.
        groups: (trials,) video that each trial shows.
        load: reads the predictions of a trial, such as `OutOfFold.load`.
        config: which frames count.
    """
    scores = MouseScores(store.name, store.unit_ids)
    scored, precision = scored_precision(store, config)
    with ThreadPoolExecutor() as threads:
        for tier, trials in _videos(store, folds, groups):
            repeats = defaultdict[int | str, _Repeats](_Repeats)
            for fold, trial in trials:
                target = np.ascontiguousarray(store.responses(trial)[scored].T)
                series = {name: values[:, scored] for name, values in load(store, trial).items()}
                cells = [scores.cells.setdefault((name, fold, tier), Cell(store.neurons)) for name in series]
                _add_trial(cells, target, list(series.values()), precision, threads)
                for subset in (ALL, fold) if len(trials) > 1 else ():
                    repeats[subset].add({_TARGET: target, **series})
            for subset, sums in repeats.items():
                sums.append_to({name: scores.to_average(name, subset, tier) for name in scores.sources}, precision)
    return scores


def scored_precision(store: MouseStore, config: EvaluationConfig) -> tuple[slice, NDArray[np.float32]]:
    """The scored frames of a trial, and what multiplies responses and predictions there, (N, T)."""
    frames = slice(config.first_frame, config.first_frame + config.frames)
    std = store.statistics("responses", "std").T  # (N, L)
    return frames, response_precision(std)[:, frames].astype(np.float32)


def _videos(
    store: MouseStore, folds: NDArray[np.int64], groups: NDArray[np.unsignedinteger]
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Tier, and fold and number of the trials, of each video, in a fixed order."""
    keys = [(str(store.tiers[t]), int(groups[t]), int(folds[t]), t) for t in np.flatnonzero(folds >= 0).tolist()]
    for (tier, _), rows in itertools.groupby(sorted(keys), key=lambda key: key[:2]):
        yield tier, [row[2:] for row in rows]


class _Repeats:
    """Sums over the repeats of one video; frames beyond the shortest repeat are dropped."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, NDArray[np.floating]] = {}

    def add(self, series: Sources) -> None:
        """Add one repeat, (N, T) by name."""
        self.count += 1
        for name, values in series.items():
            if name not in self._sums:
                self._sums[name] = values.copy()
            else:
                self._sums[name] = self._sums[name][:, : values.shape[1]]
                self._sums[name] += values[:, : self._sums[name].shape[1]]

    def append_to(self, streams: Mapping[str, StreamingCorrelation], precision: NDArray[np.float32]) -> None:
        """Append the normalised means to the stream of each source, where there is something to average."""
        if self.count > 1:
            target, predictions = self._sums[_TARGET], [self._sums[name] for name in streams]
            scale = precision[:, : target.shape[1]] / np.float32(self.count)
            update_together(list(streams.values()), target, predictions, scale)


def _add_trial(
    cells: Sequence[Cell],
    target: NDArray[np.floating],
    predictions: Sequence[NDArray[np.floating]],
    precision: NDArray[np.float32],
    threads: Executor,
) -> None:
    """Add one trial to the cell of every source; the two scores are accumulated side by side."""
    variant = threads.submit(update_together, [cell.published_variant for cell in cells], target, predictions, None)
    update_together([cell.single_trial for cell in cells], target, predictions, precision[:, : target.shape[1]])
    variant.result()
    for cell in cells:
        cell.trials += 1
