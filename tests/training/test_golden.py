"""The golden run: a short training whose curve no refactoring may move.

After a change that is meant to move it: `pytest tests/training/test_golden.py --renew-golden`, then
commit tests/golden/ with the reason.
"""

import csv
import json
from pathlib import Path

import pytest
from training_runs import EXPERIMENT, STUDENT, change_params, train_here

GOLDEN = Path(__file__).parents[1] / "golden" / "training.json"
SETTINGS = {
    "model.canvas": [20, 32],
    "model.features": [4, 6],
    "model.strides": [2, 2],
    "model.expansion": 2,
    "model.se_reduction": 4,
    "model.cortex_features": [8],
    "model.drop_path": 0.1,
    "model.cortex_drop_path": 0.1,
    "model.readout_dropout": 0.2,
    "training.samples_per_epoch": 48,
    "training.batch_size": 6,
    "training.warmup_epochs": 1,
    "training.cosine_epochs": 3,
    "training.learning_rate": 0.006,
    "training.ema_decay": 0.9,
    "training.cutmix": {"alpha": 1.0, "probability": 0.5},
}
"""Everything that moves the curve, so that a change of a preset does not."""

TOLERANCE = 1e-2
"""Relative; machines and thread counts round differently, and training carries that on."""


def curve(root: Path, experiment: str) -> list[dict[str, float]]:
    path = root / "data" / "experiments" / experiment / "fold_0" / "history.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    return [{key: value for key, value in row.items() if "/" not in key} for row in rows]


def test_the_curve_has_not_moved(project: Path, pytestconfig: pytest.Config) -> None:
    for experiment in (EXPERIMENT, STUDENT):
        change_params(project, {f"experiments.{experiment}.{key}": value for key, value in SETTINGS.items()})
        train_here(project, experiment)
    found = {experiment: curve(project, experiment) for experiment in (EXPERIMENT, STUDENT)}
    if pytestconfig.getoption("--renew-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        pytest.skip(f"{GOLDEN} is written anew: look at it and commit it")
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for experiment, rows in expected.items():
        for row, golden in zip(found[experiment], rows, strict=True):
            assert row == pytest.approx(golden, rel=TOLERANCE, abs=TOLERANCE), (experiment, row["epoch"])
