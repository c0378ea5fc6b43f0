"""What each epoch gave: the rows of history.csv, and which epoch is the best.

The file holds no times of day and no speeds, so that equal trainings give equal bytes.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Row = dict[str, int | float]
"""One epoch: `epoch` from 0, `learning_rate`, `train_loss`, `val_loss`, `val_correlation`,
and `val_correlation/<mouse>` for each mouse."""


@dataclass(frozen=True)
class Best:
    """The epoch whose averaged weights are published."""

    epoch: int
    """Counted from 0."""
    correlation: float
    """Validation correlation, the mean over mice."""


def best_epoch(rows: Sequence[Row], warmup_epochs: int) -> Best | None:
    """The first epoch after the warm-up with the highest validation correlation; None before there is one."""
    candidates = [row for row in rows if row["epoch"] >= warmup_epochs]
    if not candidates:
        return None
    row = max(candidates, key=lambda row: (row["val_correlation"], -row["epoch"]))
    return Best(int(row["epoch"]), row["val_correlation"])


def stops_early(rows: Sequence[Row], warmup_epochs: int, patience: int | None) -> bool:
    """Whether `patience` epochs have passed since the best one; None never ends early."""
    best = best_epoch(rows, warmup_epochs)
    return patience is not None and best is not None and rows[-1]["epoch"] - best.epoch >= patience


def to_csv(rows: Sequence[Row]) -> str:
    """The rows with a header; numbers are written so that they read back exactly."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """A row as the metrics of a run."""
    metrics = {name.replace("val_", "val/", 1): value for name, value in row.items() if name.startswith("val_")}
    return {"train/epoch_loss": row["train_loss"], **metrics}
