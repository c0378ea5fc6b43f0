"""Scores as tables: one row per source, mouse, fold and tier; one row per source and neuron; a summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sensorium.config import Config
from sensorium.errors import SensoriumError
from sensorium.evaluation.scores import ALL, Cell, MouseScores
from sensorium.files import read_json
from sensorium.mice import short_name
from sensorium.paths import Paths
from sensorium.recovery import later_remedy, remedy, trained_folds

HISTORY_FILE = "history.csv"

SINGLE_TRIAL = "single_trial_correlation"
"""The competition's score: normalised, pooled over neurons."""
PUBLISHED_VARIANT = "published_variant"
"""The published solution's score: not normalised, mean over mice."""
TO_AVERAGE = "correlation_to_average"
"""Over the repeats of a video, normalised, pooled over neurons; empty where nothing is repeated."""
METRICS = (SINGLE_TRIAL, PUBLISHED_VARIANT, TO_AVERAGE)

_BINS: NDArray[np.float64] = np.linspace(-0.2, 1.0, 61)
"""Edges of the histogram over neurons; correlations below the first fall into it."""


def _correlations(cell: Cell) -> dict[str, Any]:
    """Each metric of every neuron; NaN where nothing is repeated."""
    repeated = cell.to_average.frames > 0
    return {
        SINGLE_TRIAL: cell.single_trial.correlation(),
        PUBLISHED_VARIANT: cell.published_variant.correlation(),
        TO_AVERAGE: cell.to_average.correlation() if repeated else np.nan,
    }


def _row(source: str, mouse: str, fold: int | str, tier: str, cell: Cell) -> dict[str, Any]:
    return {
        "source": source,
        "mouse": mouse,
        "fold": fold,
        "tier": tier,
        **{metric: np.mean(values) for metric, values in _correlations(cell).items()},
        "neurons": cell.single_trial.neurons,
        "undefined_neurons": int(cell.single_trial.undefined().sum()),
        "trials": cell.trials,
        "frames": cell.single_trial.frames,
    }


def score_table(mice: Sequence[MouseScores]) -> pd.DataFrame:
    """One row per source, mouse, fold and tier; `all` stands for the pool over a column.

    Rows of the mouse `all` pool the neurons of all mice, but average the mice for `published_variant`.
    """
    rows = [
        _row(source, scores.mouse, fold, tier, scores.pooled(source, fold, tier))
        for scores in mice
        for source in scores.sources
        for fold, tier in scores.subsets()
    ]
    table = pd.DataFrame(rows)
    keys = ["source", "fold", "tier"]
    pools = [_pool_mice(part).to_dict() for _, part in table.groupby(keys, sort=False)]
    return pd.concat([pd.DataFrame(pools, columns=table.columns), table], ignore_index=True)


def _pool_mice(part: pd.DataFrame) -> pd.Series:
    """Row of the mouse `all` from the rows of the mice."""
    pool = part.iloc[0].copy()
    pool["mouse"] = ALL
    for metric in (SINGLE_TRIAL, TO_AVERAGE):
        known = part[part[metric].notna()]
        pool[metric] = np.average(known[metric], weights=known["neurons"]) if len(known) else np.nan
    pool[PUBLISHED_VARIANT] = part[PUBLISHED_VARIANT].mean()
    counts = ["neurons", "undefined_neurons", "trials", "frames"]
    pool[counts] = part[counts].sum()
    return pool


def neuron_table(mice: Sequence[MouseScores]) -> pd.DataFrame:
    """One row per source, mouse and neuron: its correlations over all trials; NaN where nothing is repeated."""
    parts = [
        {"source": source, "mouse": scores.mouse, "unit_id": scores.unit_ids, **_correlations(scores.pooled(source))}
        for scores in mice
        for source in scores.sources
    ]
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Each metric by source, over all mice and for every mouse.

    A source that some mice lack (the ceiling) has no figure over all mice.
    """
    whole = table[(table["fold"] == ALL) & (table["tier"] == ALL)]
    mice = whole.loc[whole["mouse"] != ALL, "mouse"].nunique()
    counts = whole.groupby("source")["mouse"].nunique()
    complete = whole[(whole["mouse"] != ALL) | whole["source"].map(counts == mice + 1)]
    found: dict[str, Any] = {metric: _by_source(complete[complete["mouse"] == ALL], metric) for metric in METRICS}
    per_mouse = complete[complete["mouse"] != ALL].groupby("mouse", sort=False)
    found["mice"] = {str(mouse): {metric: _by_source(part, metric) for metric in METRICS} for mouse, part in per_mouse}
    return found


def _by_source(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    known = rows[rows[metric].notna()]
    return {str(source): round(float(value), 6) for source, value in zip(known["source"], known[metric], strict=True)}


def histogram(neurons: pd.DataFrame) -> pd.DataFrame:
    """Share of the neurons in each bin of single-trial correlation, one row per source and bin."""
    centres = np.round((_BINS[:-1] + _BINS[1:]) / 2, 6)
    parts = []
    for source, part in neurons.groupby("source", sort=False):
        counts, _ = np.histogram(part[SINGLE_TRIAL].clip(_BINS[0], _BINS[-1]), _BINS)
        parts.append(pd.DataFrame({"source": source, "correlation": centres, "share": counts / len(part)}))
    return pd.concat(parts, ignore_index=True)


def by_mouse(table: pd.DataFrame) -> pd.DataFrame:
    """Single-trial correlation over all folds and tiers, one row per source and mouse."""
    whole = table[(table["fold"] == ALL) & (table["tier"] == ALL)]
    names = ["all neurons" if mouse == ALL else short_name(mouse) for mouse in whole["mouse"]]
    return pd.DataFrame({"source": whole["source"], "mouse": names, SINGLE_TRIAL: whole[SINGLE_TRIAL]})


def training_histories(config: Config, paths: Paths, experiment: str) -> dict[int, pd.DataFrame]:
    """What each epoch gave, by fold; weights that were imported have no history and are left out.

    Raises:
        CheckpointError: a fold is not trained.
    """
    folders = trained_folds(config.folds.train.values(), paths, experiment)
    files = {fold: folder / HISTORY_FILE for fold, folder in folders.items()}
    return {fold: pd.read_csv(file) for fold, file in files.items() if file.exists()}


def learning_curves(histories: Mapping[str, Mapping[int, pd.DataFrame]]) -> pd.DataFrame:
    """Validation correlation, one row per experiment and epoch: the mean of the folds that reached the epoch.

    Args:
        histories: by experiment and fold, columns `epoch` and `val_correlation`; none for weights from elsewhere.
    """
    curves = [pd.DataFrame(columns=["source", "epoch", "correlation"])]
    for experiment, folds in histories.items():
        if folds:
            curve = pd.concat(folds.values()).groupby("epoch")["val_correlation"].mean()
            curves.append(pd.DataFrame({"source": experiment, "epoch": curve.index, "correlation": curve.to_numpy()}))
    return pd.concat(curves[1:] or curves, ignore_index=True)


def read_metrics(path: Path, error: type[SensoriumError], otherwise: str) -> dict[str, Any]:
    """Read metrics.json: scores by metric and source, over all mice and below `mice` by mouse.

    Args:
        path: the file.
        error: class of what is raised.
        otherwise: how the file is made anew.

    Raises:
        SensoriumError: of the class `error`, when the file is missing, damaged or holds something else.
    """
    tree = read_json(path, error, later_remedy(path, otherwise))
    mice = tree.get("mice") if isinstance(tree, dict) else None
    parts = [tree, *mice.values()] if isinstance(mice, dict) else [None]
    if not all(isinstance(part, dict) and _are_scores(part.get(SINGLE_TRIAL)) for part in parts):
        raise error(f"{path}: holds no {SINGLE_TRIAL} of all mice and each mouse.", remedy(path, otherwise))
    return dict(tree)


def read_overall(path: Path, error: type[SensoriumError], otherwise: str) -> dict[str, float]:
    """Read overall.json: the score of each source over all mice; arguments and errors as `read_metrics`."""
    scores = read_json(path, error, later_remedy(path, otherwise))
    if not _are_scores(scores):
        raise error(f"{path}: holds no scores.", remedy(path, otherwise))
    return dict(scores)


def _are_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(score, int | float) for score in value.values())
