"""Assign a fold to every labelled trial; see `sensorium.data.folds` for the groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.data.folds import CHECKSUM, COLUMNS, REPORT, TABLE, UNLABELLED, Grouping, TrialFold
from sensorium.data.layout import THUMBNAIL_STEP
from sensorium.data.store import MouseStore, common_frame
from sensorium.errors import DataError
from sensorium.files import atomic_folder, digest_json, sha256, write_json, write_text
from sensorium.recordings.similarity import Pairs, connect, near_pairs, same_value_pairs


@dataclass(frozen=True)
class _Labelled:
    """All labelled trials of all mice, M of them."""

    mice: npt.NDArray[np.str_]
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
    mice = np.repeat([store.name for store in stores], [int(store.labels.sum()) for store in stores])
    hashes = np.concatenate([store.video_hashes[store.labels] for store in stores])
    pairs = near_pairs(*_thumbnails(stores))
    members = connect(len(hashes), np.concatenate([pairs, same_value_pairs(hashes)]))
    smallest = np.full(int(members.max()) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, members, hashes)
    return _Labelled(mice, hashes, pairs, smallest[members])


def _check_stores(stores: Sequence[MouseStore]) -> None:
    common_frame(stores)
    for store in stores:
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
    rows, first = [], 0
    for store in stores:
        own = slice(first, first := first + int(store.labels.sum()))
        group, fold = np.zeros(store.trials, np.uint64), np.full(store.trials, UNLABELLED)
        group[store.labels], fold[store.labels] = labelled.groups[own], folds[own]
        columns = [column.tolist() for column in (store.tiers, store.video_hashes, group, fold)]
        rows += [TrialFold(store.name, trial, *cells) for trial, cells in enumerate(zip(*columns, strict=True))]
    return rows


def _report(stores: Sequence[MouseStore], labelled: _Labelled, count: int, grouping: Grouping) -> dict[str, Any]:
    """Counts per mouse and fold, and the leak: near-identical trials on both sides of a split."""
    by_grouping = {"exact": labelled.hashes % np.uint64(count), "near": labelled.groups % np.uint64(count)}
    counts = {
        s.name: np.bincount(by_grouping[grouping][labelled.mice == s.name].astype(np.int64), minlength=count).tolist()
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
        report[CHECKSUM] = sha256(partial / TABLE)
        write_json(partial / REPORT, report)
    return report
