"""Measure the submission writer against building it as nested lists in a data frame.

    python benchmarks/submission.py

The competition's size: 5 mice x 60 trials x 7,900 neurons x 249 frames. Each run is a process of its
own, so that its peak memory is its own; nested lists of all 300 trials would take some 24 GB, so the
baseline runs on fewer trials, and its figures grow in proportion. Prints a Markdown table.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from sensorium.metrics import response_precision
from sensorium.submission.writer import Row, write_submission

MICE, TRIALS, NEURONS, FRAMES, FIRST, LENGTH = 5, 60, 7900, 249, 50, 300
DISTINCT = 5


def write_predictions(folder: Path) -> None:
    """A few trials with the spread and smoothness of predicted responses; the others repeat them."""
    rng = np.random.default_rng(0)
    np.save(folder / "std.npy", rng.gamma(2, 2, (NEURONS, LENGTH)))
    for trial in range(DISTINCT):
        drive = np.cumsum(rng.standard_normal((NEURONS, LENGTH), np.float32), axis=1) / 5
        np.save(folder / f"{trial}.npy", np.logaddexp(0, drive).astype(np.float32))


def load(folder: Path, trial: int, precision: np.ndarray) -> np.ndarray:
    prediction = np.load(folder / f"{trial % DISTINCT}.npy")
    return prediction[:, FIRST : FIRST + FRAMES] * precision


def streamed(folder: Path, trials: int) -> None:
    def rows() -> Iterator[Row]:
        ids = np.arange(1, NEURONS + 1, dtype=np.uint32)
        precision = response_precision(np.load(folder / "std.npy"))[:, FIRST : FIRST + FRAMES]
        for trial in range(trials):
            yield Row(str(trial % MICE), trial, load(folder, trial, precision).astype(np.float32), ids)

    write_submission(folder / "streamed.parquet.brotli", rows())


def nested(folder: Path, trials: int) -> None:
    ids = np.arange(1, NEURONS + 1, dtype=np.uint32)
    precision = response_precision(np.load(folder / "std.npy"))[:, FIRST : FIRST + FRAMES]
    columns = {"mouse": [], "trial_indices": [], "prediction": [], "neuron_ids": []}
    for trial in range(trials):
        columns["mouse"].append(str(trial % MICE))
        columns["trial_indices"].append(trial)
        columns["prediction"].append(load(folder, trial, precision).tolist())
        columns["neuron_ids"].append(ids.tolist())
    path = folder / "nested.parquet.brotli"
    pd.DataFrame(columns).to_parquet(path, compression="brotli", engine="pyarrow", index=False)


def _measured(work: Callable[[Path, int], None], folder: Path, trials: int, answer) -> None:
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    work(folder, trials)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.put((time.perf_counter() - wall, time.process_time() - cpu, (peak - idle) / 2**10))


def measure(work: Callable[[Path, int], None], folder: Path, trials: int) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, and MiB above the idle process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_measured, args=(work, folder, trials, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30, help="trials that both approaches write")
    options = parser.parse_args()
    print("| approach | trials | seconds | processor seconds | peak memory, MiB | file, MiB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_predictions(folder)
        for work, trials in ((nested, options.trials), (streamed, options.trials), (streamed, MICE * TRIALS)):
            wall, cpu, peak = measure(work, folder, trials)
            size = (folder / f"{work.__name__}.parquet.brotli").stat().st_size / 2**20
            print(f"| {work.__name__} | {trials} | {wall:.1f} | {cpu:.1f} | {peak:,.0f} | {size:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
