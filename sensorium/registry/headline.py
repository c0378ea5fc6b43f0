"""The figures of a row of the leaderboard: its score out of fold, and how far it is from another experiment's."""

import csv
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sensorium.comparison import compare
from sensorium.errors import TrackingError
from sensorium.evaluation.tables import SINGLE_TRIAL
from sensorium.recovery import remedy
from sensorium.tracking.descriptions import rounded
from sensorium.tracking.leaderboard import HEADLINE, describe_row
from sensorium.tracking.runs import DIFFERENCE, student_t, update_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "oof"
"""Before the names of out-of-fold metrics: out of fold, by all trials of all mice."""
ALL = "all"
_ENOUGH = 2
"""Folds without which there is no interval."""

ByFold = Mapping[str, Mapping[str, float]]
"""A score by mouse and fold; the mouse `all` pools the neurons of all."""


def tell_rows(client: "MlflowClient", table: Path, rows: Mapping[str, str], reference: str) -> None:
    """Bring the rows of what was scored together up to date, and describe them.

    Args:
        client: client of the store.
        table: scores.csv.
        rows: run by source.
        reference: source that the others are compared with, an experiment.

    Raises:
        TrackingError: the table is missing or lacks a column.
    """
    scores = read_scores(table)
    for source, run_id in rows.items():
        value = client.get_run(run_id).data.metrics.get(f"{PREFIX}/{SINGLE_TRIAL}")
        by_fold = scores.get(source, {})
        figures = {} if value is None else score(value, by_fold)
        if source != reference:
            figures |= difference(by_fold, scores.get(reference, {}), reference)
        update_metrics(client, run_id, figures)
        describe_row(client, run_id)


def read_scores(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Single-trial correlation by source, mouse and fold, from scores.csv; the pool over folds is left out.

    Raises:
        TrackingError: the file is missing or lacks a column.
    """
    evaluate = "Type `dvc repro evaluate`."
    scores: dict[str, dict[str, dict[str, float]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["tier"] == ALL and row["fold"] != ALL:
                    by_mouse = scores.setdefault(row["source"], {}).setdefault(row["mouse"], {})
                    by_mouse[row["fold"]] = float(row[SINGLE_TRIAL])
    except FileNotFoundError:
        raise TrackingError(f"{path}: the file does not exist.", remedy(path, evaluate)) from None
    except (KeyError, ValueError) as fault:
        raise TrackingError(f"{path}: not a table of scores ({fault}).", remedy(path, evaluate)) from fault
    return scores


def score(value: float, by_fold: ByFold) -> dict[str, float]:
    """The score, and its 95% interval over folds (Student's t).

    Args:
        value: over all neurons and folds.
        by_fold: the same by mouse and fold.
    """
    folds = list(by_fold.get(ALL, {}).values())
    found = {HEADLINE: value}
    if len(folds) >= _ENOUGH:
        half = student_t(len(folds) - 1) * statistics.stdev(folds) / math.sqrt(len(folds))
        found |= {f"{HEADLINE}/ci_low": value - half, f"{HEADLINE}/ci_high": value + half}
    return {key: rounded(number) for key, number in found.items()}


def difference(candidate: ByFold, reference: ByFold, name: str) -> dict[str, float]:
    """Candidate minus reference, with its interval over mice and folds, as `sensorium compare` has it.

    Args:
        candidate: scores.
        reference: scores of the same trials.
        name: of the experiment that is the reference.
    """
    found = compare(_mice(candidate), _mice(reference))
    if found is None:
        return {}
    key = f"{DIFFERENCE}{name}"
    numbers = {key: found.mean, f"{key}/ci_low": found.low, f"{key}/ci_high": found.high}
    return {key: rounded(number) for key, number in numbers.items()}


def _mice(scores: ByFold) -> ByFold:
    return {mouse: folds for mouse, folds in scores.items() if mouse != ALL}
