"""What a sweep's bookkeeping costs its trials: space, study, pruner, table and figure.

    dvc repro folds && python benchmarks/sweep.py

searches the demonstration's teacher with three trials of conf/sweep/quick.yaml, in a copy of the project, without
MLflow (benchmarks/bookkeeping.py tells what that costs), and prints the seconds that were not spent in trainings.
What is imported once, whatever is trained, does not count.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from sensorium import tracking
from sensorium.callbacks.recorder import Recorder
from sensorium.commands import sweep
from sensorium.config import load
from sensorium.paths import Paths, find_root
from sensorium.stages import train
from sensorium.sweep.study import Sweep

TRIALS = 3


def main():
    """Print the figures as JSON."""
    paths = Paths(find_root())
    training, judging = [], []
    with tempfile.TemporaryDirectory(prefix="sensorium-sweep-") as folder:
        copy = Paths(Path(folder))
        shutil.copy(paths.root / "params.yaml", folder)
        for name in ("store", "folds"):
            (copy.root / "data").mkdir(exist_ok=True)
            (copy.root / "data" / name).symlink_to(paths.root / "data" / name)
        space = paths.root / "conf" / "sweep" / "quick.yaml"
        with (
            patch.object(tracking, "start_training_run", lambda *_: Recorder()),
            patch.object(train, "try_out", timed(train.try_out, training)),
            patch.object(Sweep, "report", timed(Sweep.report, judging)),
        ):
            began = time.perf_counter()
            sweep.search(load(paths.root / "params.yaml"), copy, sweep.Options("true_batch_001", space, TRIALS, (0,)))
            whole = time.perf_counter() - began
    spent = whole - sum(training) + sum(judging)
    figures = {"trials": TRIALS, "seconds": whole, "bookkeeping": spent, "share": spent / whole}
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}, indent=2))


def timed(function, seconds):
    """The function, with its durations appended to a list."""

    def call(*arguments, **options):
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - began)

    return call


if __name__ == "__main__":
    main()
