"""Group folds: every labelled trial belongs to one fold, and trials of one video to the same.

As published, a trial's fold is its video's hash modulo the number of folds. Repeats of a video that
differ by a flipped bit of the hash are then spread over folds; the grouping `near` keeps them together
by taking the smallest hash of all near-identical trials, of all mice.
"""

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sensorium.data.layout import THUMBNAIL_STEP
from sensorium.data.similarity import Pairs, connect, near_pairs, same_value_pairs
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.files import atomic_folder, digest_json, write_json, write_text
from sensorium.recovery import remedy

Grouping = Literal["exact", "near"]

UNLABELLED = -1
"""Fold of a trial that is no labelled data."""

TABLE = "folds.csv"
REPORT = "report.json"
COLUMNS = ("mouse", "trial", "tier", "hash", "group", "fold")

_REMEDY = "Run `dvc repro folds`."


@dataclass(frozen=True)
class TrialFold:
    """One line of the table."""

    mouse: str
    trial: int
    tier: str
    hash: int
    """Perceptual hash of the video."""
    group: int
    """Smallest hash of all trials that show this video; 0 where unlabelled."""
    fold: int
    """`UNLABELLED` where the responses are no data."""

    def cells(self) -> list[str]:
        """The line as text, hashes in hexadecimal."""
        return [self.mouse, str(self.trial), self.tier, f"{self.hash:016x}", f"{self.group:016x}", str(self.fold)]


class Folds:
    """The fold and the video group of every trial."""

    def __init__(self, rows: Sequence[TrialFold]) -> None:
        """Take a table's lines, a mouse's in the order of its trials."""
        by_mouse = itertools.groupby(rows, key=lambda row: row.mouse)
        self._rows = {mouse: list(lines) for mouse, lines in by_mouse}

    @classmethod
    def load(cls, folder: Path) -> "Folds":
        """Read the folder that the stage `folds` wrote.

        Raises:
            DataError: the table is missing or damaged.
        """
        path = folder / TABLE
        try:
            with path.open(encoding="utf-8", newline="") as stream:
                lines = list(csv.DictReader(stream))
            rows = [
                TrialFold(
                    line["mouse"],
                    int(line["trial"]),
                    line["tier"],
                    int(line["hash"], 16),
                    int(line["group"], 16),
                    int(line["fold"]),
                )
                for line in lines
            ]
        except FileNotFoundError:
            raise DataError(f"{path}: the file does not exist.", remedy(path, _REMEDY)) from None
        except (KeyError, TypeError, ValueError) as fault:
            raise DataError(f"{path}: no table of {', '.join(COLUMNS)} ({fault}).", remedy(path, _REMEDY)) from fault
        return cls(rows)

    def _mouse(self, mouse: str) -> list[TrialFold]:
        if mouse not in self._rows:
            raise DataError(f"folds: mouse {mouse} is not in the table.", _REMEDY)
        return self._rows[mouse]

    def of(self, mouse: str) -> npt.NDArray[np.int64]:
        """Fold (trials,) of each trial, `UNLABELLED` where there is none.

        Raises:
            DataError: the table does not hold the mouse.
        """
        return np.array([row.fold for row in self._mouse(mouse)], dtype=np.int64)

    def group(self, mouse: str) -> npt.NDArray[np.uint64]:
        """Video shown (trials,), as the smallest hash of all trials that show it; 0 where unlabelled.

        Near-identical trials share a group, whichever grouping the folds follow.

        Raises:
            DataError: the table does not hold the mouse.
        """
        return np.array([row.group for row in self._mouse(mouse)], dtype=np.uint64)


@dataclass(frozen=True)
class _Labelled:
    """All labelled trials of all mice, M of them."""

    mice: list[str]
    trials: list[int]
    hashes: npt.NDArray[np.uint64]
    pairs: Pairs
    """Pairs of near-identical trials."""
    groups: npt.NDArray[np.uint64]
    """Smallest hash of each trial's video."""


def _thumbnails(stores: Sequence[MouseStore]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Thumbnails (M, S, K) of all labelled trials, and how many each has (M,)."""
    longest = max(store.thumbnails.shape[1] for store in stores)
    parts, counts = [], []
    for store in stores:
        labelled = store.labels
        flat = store.thumbnails[labelled].reshape(int(labelled.sum()), store.thumbnails.shape[1], -1)
        parts.append(np.pad(flat, ((0, 0), (0, longest - flat.shape[1]), (0, 0))))
        counts.append(-(-store.lengths[labelled] // THUMBNAIL_STEP))
    return np.concatenate(parts), np.concatenate(counts)


def _collect(stores: Sequence[MouseStore]) -> _Labelled:
    trials = [np.flatnonzero(store.labels).tolist() for store in stores]
    mice = [store.name for store, own in zip(stores, trials, strict=True) for _ in own]
    hashes = np.concatenate([store.video_hashes[store.labels] for store in stores])
    pairs = near_pairs(*_thumbnails(stores))
    members = connect(len(hashes), np.concatenate([pairs, same_value_pairs(hashes)]))
    smallest = np.full(int(members.max()) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, members, hashes)
    return _Labelled(mice, list(itertools.chain(*trials)), hashes, pairs, smallest[members])


def _check_stores(stores: Sequence[MouseStore]) -> None:
    for store in stores:
        if store.frame_shape != stores[0].frame_shape:
            raise DataError(
                f"{store.path}: frames of {store.frame_shape}, those of {stores[0].name} have {stores[0].frame_shape}.",
                "Use mice of one frame size together.",
            )
        if not store.labels.any():
            raise DataError(
                f"{store.path}: not one labelled trial.", "Check the mouse's set in params.yaml, dataset.mice."
            )


def _check_counts(counts: dict[str, list[int]]) -> None:
    for mouse, own in counts.items():
        if 0 in own:
            raise DataError(
                f"{mouse}: no labelled trial in fold {own.index(0)}; its folds have {own} trials.",
                "Lower folds.count in params.yaml, or leave the mouse out of dataset.mice.",
            )


def _table(stores: Sequence[MouseStore], labelled: _Labelled, folds: npt.NDArray[np.int64]) -> list[TrialFold]:
    keys = zip(labelled.mice, labelled.trials, strict=True)
    found = dict(zip(keys, zip(labelled.groups.tolist(), folds.tolist(), strict=True), strict=True))
    rows = []
    for store in stores:
        for trial, (tier, value) in enumerate(zip(store.tiers.tolist(), store.video_hashes.tolist(), strict=True)):
            group, fold = found.get((store.name, trial), (0, UNLABELLED))
            rows.append(TrialFold(store.name, trial, tier, value, group, fold))
    return rows


def _report(stores: Sequence[MouseStore], labelled: _Labelled, count: int, grouping: Grouping) -> dict[str, Any]:
    """Counts a mouse and fold, and the leak: near-identical trials on both sides of a split."""
    by_grouping = {"exact": labelled.hashes % np.uint64(count), "near": labelled.groups % np.uint64(count)}
    names = np.array(labelled.mice)
    counts = {
        s.name: np.bincount(by_grouping[grouping][names == s.name].astype(np.int64), minlength=count).tolist()
        for s in stores
    }
    left, right = labelled.pairs.T
    return {
        "grouping": grouping,
        "folds": count,
        "labelled_trials": {mouse: sum(own) for mouse, own in counts.items()},
        "trials_by_fold": counts,
        "videos": {"exact": len(np.unique(labelled.hashes)), "near": len(np.unique(labelled.groups))},
        "near_identical_pairs": len(labelled.pairs),
        "near_identical_pairs_in_different_folds": {
            name: int((folds[left] != folds[right]).sum()) for name, folds in by_grouping.items()
        },
        "sources": {store.name: digest_json(store.sources) for store in stores},
    }


def write_folds(stores: Sequence[MouseStore], count: int, grouping: Grouping, folder: Path) -> dict[str, Any]:
    """Assign folds and write the table and the report.

    Args:
        stores: all mice.
        count: number of folds.
        grouping: `exact` as published, `near` keeps near-identical videos together.
        folder: where to write, replaced as a whole.

    Returns:
        The report.

    Raises:
        DataError: a mouse has no labelled trial, or none in some fold, or another frame size.
    """
    _check_stores(stores)
    labelled = _collect(stores)
    report = _report(stores, labelled, count, grouping)
    _check_counts(report["trials_by_fold"])
    values = labelled.hashes if grouping == "exact" else labelled.groups
    rows = _table(stores, labelled, (values % np.uint64(count)).astype(np.int64))
    with atomic_folder(folder) as partial:
        lines = [list(COLUMNS), *(row.cells() for row in rows)]
        write_text(partial / TABLE, "".join(",".join(line) + "\n" for line in lines))
        write_json(partial / REPORT, report)
    return report
