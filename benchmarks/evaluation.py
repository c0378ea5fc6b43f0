"""Measure scoring a mouse of 7,900 neurons: time against reading alone, and memory against trials.

    python benchmarks/evaluation.py --trials 100 400 700

Teacher, student, their ensemble and the noise ceiling are scored on trials of 300 frames, files in the
page cache. Each run is a process of its own, so that its peak memory is its own. The baseline holds all
trials in memory and calls `numpy.corrcoef`'s formula once; it grows with the trials and is run on the
smallest number only. Prints a Markdown table.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.config import EvaluationConfig
from sensorium.evaluation import OutOfFold, score_mouse
from sensorium.inference.predictions import Predictions
from sensorium.metrics import correlation, response_precision

NEURONS, FRAMES, DISTINCT, FOLDS, REPEATS = 7900, 300, 10, 7, 10
CONFIG = EvaluationConfig(first_frame=50, frames=249)


class Recording:
    """Stands for a mouse's store; a few trials on disk are shown again and again."""

    name, neurons = "mouse", NEURONS

    def __init__(self, folder: Path, trials: int) -> None:
        self.folder = folder
        self.lengths = np.full(trials, FRAMES)
        self.tiers = np.array(["train" if trial % 2 else "oracle" for trial in range(trials)])
        self.unit_ids = np.arange(NEURONS, dtype=np.uint32)

    def responses(self, trial: int) -> np.ndarray:
        return np.load(self.folder / f"responses_{trial % DISTINCT}.npy")

    def truth(self, trial: int) -> np.ndarray:
        return np.load(self.folder / f"truth_{trial % DISTINCT}.npy")

    def statistics(self, modality: str, name: str) -> np.ndarray:
        return np.load(self.folder / f"{modality}_{name}.npy")


class Cycled(Predictions):
    """Predictions of the same few trials."""

    def load(self, mouse: str, trial: int, shape: tuple[int, int]) -> np.ndarray:
        return super().load(mouse, trial % DISTINCT, shape)


def write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "responses_std.npy", rng.gamma(2, 2, (FRAMES, NEURONS)).astype(np.float32))
    for trial in range(DISTINCT):
        rate = rng.gamma(2, 2, (NEURONS, FRAMES)).astype(np.float32)
        np.save(folder / f"truth_{trial}.npy", np.ascontiguousarray(rate.T))
        np.save(folder / f"responses_{trial}.npy", np.ascontiguousarray((rate * rng.random(rate.shape, np.float32)).T))
        for member in ("teacher", "student"):
            (folder / member / "mouse").mkdir(parents=True, exist_ok=True)
            np.save(folder / member / "mouse" / f"{trial}.npy", rate + rng.random(rate.shape, np.float32))


def sources(folder: Path) -> OutOfFold:
    return OutOfFold({name: Cycled(folder / name, {}) for name in ("teacher", "student")})


def read_only(folder: Path, trials: int) -> Any:
    recording, load = Recording(folder, trials), sources(folder).load
    return [
        float(load(recording, trial)["teacher"][0, 0] + recording.responses(trial)[0, 0]) for trial in range(trials)
    ]


def streamed(folder: Path, trials: int) -> Any:
    videos = np.arange(trials, dtype=np.uint64) // REPEATS
    folds = (videos % FOLDS).astype(np.int64)
    return score_mouse(Recording(folder, trials), folds, videos, sources(folder).load, CONFIG).pooled("ensemble")


def in_memory(folder: Path, trials: int) -> Any:
    recording, load = Recording(folder, trials), sources(folder).load
    scored = slice(CONFIG.first_frame, CONFIG.first_frame + CONFIG.frames)
    precision = response_precision(recording.statistics("responses", "std").T)[:, scored]
    found = [load(recording, trial) for trial in range(trials)]
    targets = [recording.responses(trial).T[:, scored] for trial in range(trials)]
    scores = []
    for name in found[0]:
        for weights in (precision, 1):
            both = [
                (target * weights, part[name][:, scored] * weights) for target, part in zip(targets, found, strict=True)
            ]
            scores.append(correlation(*(np.concatenate(series, 1) for series in zip(*both, strict=True))))
    return scores


def _measured(work: Any, folder: Path, trials: int, answer: Any) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work(folder, trials)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    answer.put((time.perf_counter() - wall, time.process_time() - cpu, peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[40, 160, 700])
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    megabytes = NEURONS * FRAMES * 4 * 4 / 2**20  # responses, rate and two predictions
    print("| approach | trials | seconds | processor seconds | MiB/s | peak memory, MiB |")
    print("|---|---|---|---|---|---|")
    runs = [(in_memory, options.trials[0]), (read_only, options.trials[0])]
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        for work, trials in [*runs, *((streamed, trials) for trials in options.trials)]:
            answer = context.Queue()
            process = context.Process(target=_measured, args=(work, Path(name), trials, answer))
            process.start()
            wall, cpu, peak = answer.get()
            process.join()
            speed = trials * megabytes / wall
            print(f"| {work.__name__} | {trials} | {wall:.1f} | {cpu:.1f} | {speed:.0f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
