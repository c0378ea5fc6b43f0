"""What tracking, progress and saved states cost a training of the demonstration.

    dvc repro folds && python benchmarks/bookkeeping.py

trains fold 0 of the teacher in turns with nothing around it (no MLflow, no bar, no state on disk) and with all of
it: the journal and its courier with a fresh MLflow store, the progress bar, a state every 50 steps and each epoch.
From the first step to the end of the run in MLflow. Nothing of the project's folder is changed.
"""

import argparse
import contextlib
import io
import os
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from sensorium.cli.process import prepare

prepare()

from sensorium import tracking
from sensorium.config import Config, load
from sensorium.data.store import MouseStore
from sensorium.paths import PARAMS_FILE, Paths, find_root
from sensorium.stages import train as stage
from sensorium.tracking.store import Store
from sensorium.training import devices
from sensorium.training.fingerprint import provenance
from sensorium.training.loop import Surroundings, Trainer
from sensorium.training.progress import NullView, TerminalView
from sensorium.training.recorder import NullRecorder, closing
from sensorium.training.resume import ResumeFolder
from sensorium.training.stopping import StopRequest

EXPERIMENT, FOLD = "true_batch_001", 0


class Nowhere:
    """A resume folder that keeps nothing."""

    def tidy(self):
        pass

    def latest(self, _notify):
        return None

    def save(self, _epoch, _step, _state):
        pass

    def save_best(self, _epoch, _weights):
        pass


@dataclass
class Spent:
    """Seconds of one training."""

    wall: float
    trainer: float
    """Processor seconds of the training's own process."""
    courier: float
    """Processor seconds of the process that talks to MLflow."""


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(config: Config, paths: Paths, *, bare: bool, turn: int) -> Spent:
    """Train the fold once, from equal weights."""
    known = provenance(config, paths, EXPERIMENT, FOLD, None)
    recorder = partial(tracking.start_training_run, config, paths, EXPERIMENT, FOLD, f"{turn}")
    fabric = devices.make_fabric(config.runtime, "32-true", unused_readouts=True)
    devices.make_deterministic(fabric)
    job = stage.Job(config, paths, EXPERIMENT, FOLD, known, recorder)
    stores = [MouseStore.open(paths.store(mouse)) for mouse in config.dataset.mice]
    learner, source, validation = stage.assemble(fabric, job, stores)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    folder = Nowhere() if bare else ResumeFolder(paths.state / "train", f"{turn}")
    view = NullView() if bare else TerminalView(job.name, learner.steps, job.epochs, console)
    wall, own, others = time.perf_counter(), time.process_time(), children_seconds()
    with StopRequest(None) as stop:
        written = NullRecorder() if bare else job.open_recorder()
        with closing(written), view:
            around = Surroundings(written, view, stop)
            Trainer(learner, source, validation, folder, config.runtime.checkpoint_steps, around).run()
    return Spent(time.perf_counter() - wall, time.process_time() - own, children_seconds() - others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    root = find_root()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        there = Path(scratch)
        shutil.copy(root / PARAMS_FILE, there)
        (there / "data").mkdir()
        for name in ("store", "folds"):
            (there / "data" / name).symlink_to(root / "data" / name)
        (there / "sensorium").symlink_to(root / "sensorium")
        config, paths = load(there / PARAMS_FILE), Paths(there)
        Store.of(paths).client()  # makes the tables once, as the first of many trainings does
        spent: dict[bool, list[Spent]] = {True: [], False: []}
        for turn in range(turns + 1):
            for bare, times in spent.items():
                one = train(config, paths, bare=bare, turn=turn)
                if turn > 0:  # the first one warms up
                    times.append(one)
    report(spent[True], spent[False])


def report(bare: list[Spent], full: list[Spent]) -> None:
    print(f"\n{os.cpu_count()} processors, {len(bare)} turns, medians in seconds\n")
    print("| a training | wall clock | trainer's processor time | courier's processor time |")
    print("|---|---|---|---|")
    for name, times in (("bare", bare), ("with everything", full)):
        row = [statistics.median(getattr(one, key) for one in times) for key in ("wall", "trainer", "courier")]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |")
    for key in ("wall", "trainer"):
        shares = [getattr(more, key) / getattr(less, key) - 1 for less, more in zip(bare, full, strict=True)]
        print(f"\n{key}: {100 * statistics.median(shares):+.1f} % (turn by turn, median)", end="")
    print()


if __name__ == "__main__":
    main()
