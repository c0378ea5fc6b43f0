"""What a mouse's store holds, as facts of the mouse or of a trial; `figures` draws them.

The statistics stand for the responses of all training trials, so that a mouse of full size is described
without a pass over its recordings. N neurons.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sensorium.data.folds import UNLABELLED
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.mice import FRAMES_PER_SECOND, TIERS

Facts = dict[str, str]
"""What is shown, by its name."""


@dataclass(frozen=True)
class TierCount:
    """The trials of one tier."""

    tier: str
    trials: int
    labelled: int
    """Trials whose responses are data."""
    folds: list[int]
    """Labelled trials by fold; empty while no fold is assigned."""


def count_tiers(store: MouseStore, folds: npt.NDArray[np.int64] | None) -> list[TierCount]:
    """Count the trials of each tier that the mouse has.

    Args:
        store: the mouse.
        folds: fold (trials,) of each trial; None when none is assigned yet.
    """
    count = 0 if folds is None else int(folds.max()) + 1
    rows = []
    for tier in TIERS:
        chosen = store.tiers == tier
        if chosen.any():
            own = np.array([]) if folds is None else folds[chosen]
            by_fold = [int((own == fold).sum()) for fold in range(count)]
            rows.append(TierCount(tier, int(chosen.sum()), int(store.labels[chosen].sum()), by_fold))
    return rows


def mean_responses(store: MouseStore) -> npt.NDArray[np.float64]:
    """Mean response (N,) of each neuron over frames and training trials, from the mouse's statistics.

    Raises:
        DataError: the statistics are damaged.
    """
    statistic = store.statistics("responses", "mean")
    if lost := int((~np.isfinite(statistic).any(axis=0)).sum()):
        raise DataError(
            f"{store.path}: statistics/responses holds no mean of {lost} neurons, NaN alone.",
            "Run `sensorium verify`, restore the statistics of the raw mouse, then run `dvc repro ingest`.",
        )
    means: npt.NDArray[np.float64] = np.nanmean(statistic, axis=0, dtype=np.float64)
    return means


def mouse_facts(store: MouseStore) -> Facts:
    """Facts of a mouse.

    Raises:
        DataError: the store is damaged.
    """
    height, width = store.frame_shape
    shortest, longest = int(store.lengths.min()), int(store.lengths.max())
    low, middle, high = np.quantile(mean_responses(store), (0.05, 0.5, 0.95))
    same = shortest == longest
    return {
        "mouse": f"{store.name}, {store.mouse_set} set",
        "trials": f"{store.trials}, {int(store.labels.sum())} of them labelled",
        "videos": f"{len(np.unique(store.video_hashes))} by hash",
        "neurons": f"{store.neurons:,}",
        "frames": f"{height} x {width} pixels, {store.frame_dtype}",
        "length": f"{shortest if same else f'{shortest} to {longest}'} frames at {FRAMES_PER_SECOND:g} Hz, "
        f"{int(store.lengths.sum()) / FRAMES_PER_SECOND / 60:.1f} minutes in all",
        "mean response": f"median {middle:.3g}, 5 % of the neurons below {low:.3g}, 5 % above {high:.3g}",
        "noiseless rates": "known" if store.truth(0) is not None else "unknown",
    }


def trial_facts(store: MouseStore, trial: int, fold: int | None) -> Facts:
    """Facts of a trial.

    Args:
        store: the mouse.
        trial: index of the trial.
        fold: its fold; None when none is assigned yet.
    """
    length = int(store.lengths[trial])
    same = np.flatnonzero(store.video_hashes == store.video_hashes[trial])
    others = [str(other) for other in same if other != trial]
    if fold is None:
        where = "not assigned yet: run `dvc repro folds`"
    else:
        where = "none, its responses are no data" if fold == UNLABELLED else str(fold)
    return {
        "mouse": store.name,
        "trial": f"{trial} of 0 to {store.trials - 1}",
        "tier": str(store.tiers[trial]),
        "fold": where,
        "length": f"{length} frames, {length / FRAMES_PER_SECOND:.1f} s",
        "video hash": f"{int(store.video_hashes[trial]):016x}",
        "other showings": f"trial {', '.join(others)}" if others else "none to this mouse",
        "responses": "data" if store.labels[trial] else "withheld or unusable",
    }
