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
from typing import Literal

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.files import read_json, sha256
from sensorium.recovery import later_remedy, remedy

Grouping = Literal["exact", "near"]
UNLABELLED = -1
"""Fold of a trial that is no labelled data."""
TABLE = "folds.csv"
REPORT = "report.json"
CHECKSUM = "table_sha256"
"""Key of the report: digest of the table; reports of earlier versions have none."""
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
        _check_digest(folder)
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

    @property
    def mice(self) -> list[str]:
        """Mice of the table."""
        return list(self._rows)

    def _mouse(self, mouse: str) -> list[TrialFold]:
        if mouse not in self._rows:
            raise DataError(f"folds: mouse {mouse} is not in the table.", _REMEDY)
        return self._rows[mouse]

    def of(self, mouse: str, trials: int | None = None) -> npt.NDArray[np.int64]:
        """Fold (trials,) of each trial, `UNLABELLED` where there is none.

        Raises:
            DataError: the table does not hold the mouse, or another number of trials than its store.
        """
        folds = np.array([row.fold for row in self._mouse(mouse)], dtype=np.int64)
        if trials is not None and len(folds) != trials:
            raise DataError(f"folds: {len(folds)} trials of mouse {mouse}, its store has {trials}.", _REMEDY)
        return folds

    def group(self, mouse: str) -> npt.NDArray[np.uint64]:
        """Video shown (trials,), as the smallest hash of all trials that show it; 0 where unlabelled.

        Near-identical trials share a group, whichever grouping the folds follow.

        Raises:
            DataError: the table does not hold the mouse.
        """
        return np.array([row.group for row in self._mouse(mouse)], dtype=np.uint64)


def _check_digest(folder: Path) -> None:
    """Compare the table with its report; either may be missing, which is not of this function's concern."""
    path, report = folder / TABLE, folder / REPORT
    if not (path.is_file() and report.exists()):
        return
    known = read_json(report, DataError, later_remedy(report, _REMEDY))
    if isinstance(known, dict) and known.get(CHECKSUM, digest := sha256(path)) != digest:
        raise DataError(f"{path}: changed since it was written, or damaged.", remedy(path, _REMEDY))
