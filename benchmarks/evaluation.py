"""Measure scoring a mouse of 7,900 neurons: time against reading alone, and memory against trials.

    python benchmarks/evaluation.py --trials 100 700 --cold

Teacher, student, their ensemble and the noise ceiling are scored on trials of 300 frames; with `--cold`
every file is dropped from the page cache once it is read, so that each trial comes from the disk. Each
run is a process of its own, so that its peak memory is its own. The baseline holds all trials in memory
and calls `numpy.corrcoef`'s formula once; it grows with the trials and is run on a few only. Weights are
fitted in a pass of their own. Prints a Markdown table.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.config import EvaluationConfig
from sensorium.evaluation.scores import score_mouse
from sensorium.evaluation.sources import OutOfFold, load_all
from sensorium.evaluation.weights import fit, gather
from sensorium.inference.predictions import Predictions
from sensorium.metrics import correlation, response_precision
from sensorium.processes import tune_process

NEURONS, FRAMES, DISTINCT, FOLDS, REPEATS = 7900, 300, 10, 7, 10
CONFIG = EvaluationConfig(first_frame=50, frames=249)


class Disk:
    """The files of a few trials, which stand for many."""

    def __init__(self, folder: Path, cold: bool) -> None:
        self.folder = folder
        self.cold = cold

    def read(self, name: str) -> np.ndarray:
        path = self.folder / name
        array = np.load(path)
        if self.cold:
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return array


class Recording:
    """Stands for a mouse's store; a few trials on disk are shown again and again."""

    name, neurons = "mouse", NEURONS

    def __init__(self, disk: Disk, trials: int) -> None:
        self.disk = disk
        self.lengths = np.full(trials, FRAMES)
        self.tiers = np.array(["train" if trial % 2 else "oracle" for trial in range(trials)])
        self.unit_ids = np.arange(NEURONS, dtype=np.uint32)

    def responses(self, trial: int) -> np.ndarray:
        return self.disk.read(f"responses_{trial % DISTINCT}.npy")

    def truth(self, trial: int) -> np.ndarray:
        return self.disk.read(f"truth_{trial % DISTINCT}.npy")

    def statistics(self, modality: str, name: str) -> np.ndarray:
        return self.disk.read(f"{modality}_{name}.npy")


class Cycled(Predictions):
    """Predictions of the same few trials."""

    def __init__(self, disk: Disk, name: str) -> None:
        super().__init__(disk.folder / name, {})
        self.disk = disk

    def load(self, mouse: str, trial: int, shape: tuple[int, int]) -> np.ndarray:
        prediction = self.disk.read(f"{self.folder.name}/{mouse}/{trial % DISTINCT}.npy")
        assert prediction.shape == shape
        assert np.isfinite(prediction).all()
        return prediction


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


def sources(disk: Disk) -> OutOfFold:
    return OutOfFold({name: Cycled(disk, name) for name in ("teacher", "student")})


def read_only(disk: Disk, trials: int) -> Any:
    recording, members = Recording(disk, trials), sources(disk).experiments.values()
    for trial in range(trials):
        recording.responses(trial)
        recording.truth(trial)
        for member in members:
            member.disk.read(f"{member.folder.name}/mouse/{trial % DISTINCT}.npy")


def streamed(disk: Disk, trials: int) -> Any:
    videos = np.arange(trials, dtype=np.uint64) // REPEATS
    folds = (videos % FOLDS).astype(np.int64)
    return score_mouse(Recording(disk, trials), folds, videos, sources(disk).load, CONFIG).pooled("ensemble")


def weighed(disk: Disk, trials: int) -> Any:
    folds = np.arange(trials) // REPEATS % FOLDS
    experiments = sources(disk).experiments
    moments = gather(Recording(disk, trials), folds, partial(load_all, experiments), CONFIG)
    return fit([moments], list(experiments))


def in_memory(disk: Disk, trials: int) -> Any:
    recording, load = Recording(disk, trials), sources(disk).load
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


def _measured(work: Any, disk: Disk, trials: int, answer: Any) -> None:
    tune_process()  # as the command line does
    wall, cpu = time.perf_counter(), time.process_time()
    work(disk, trials)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    answer.put((time.perf_counter() - wall, time.process_time() - cpu, peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 700])
    parser.add_argument("--baseline", type=int, default=20, help="trials that the baseline holds in memory")
    parser.add_argument("--cold", action="store_true", help="read every trial from the disk")
    parser.add_argument("--folder", help="where to write the trials, 400 MB")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    megabytes = dict.fromkeys((in_memory, read_only, streamed), NEURONS * FRAMES * 4 * 4 / 2**20)
    megabytes[weighed] = NEURONS * FRAMES * 4 * 3 / 2**20  # without the noiseless rate
    print("| approach | trials | seconds | MiB/s | processor seconds | MiB a processor second | peak memory, MiB |")
    print("|---|---|---|---|---|---|---|")
    runs = [(in_memory, options.baseline), (read_only, options.trials[0])]
    runs += [(streamed, trials) for trials in options.trials] + [(weighed, options.trials[-1])]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        write(Path(name))
        os.sync()
        disk = Disk(Path(name), options.cold)
        for work, trials in runs:
            answer = context.Queue()
            process = context.Process(target=_measured, args=(work, disk, trials, answer))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{work.__name__} of {trials} trials ended with exit code {process.exitcode}")
            wall, cpu, peak = answer.get()
            size = trials * megabytes[work]
            speeds = f"{wall:.1f} | {size / wall:.0f} | {cpu:.1f} | {size / cpu:.0f}"
            print(f"| {work.__name__} | {trials} | {speeds} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
