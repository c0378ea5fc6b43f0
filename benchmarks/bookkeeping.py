"""What tracking, progress and saved states cost the trainings of the demonstration.

    dvc repro folds && python benchmarks/bookkeeping.py

trains the teacher's folds one after another, each in a process of its own as in a pipeline, in turns with nothing
around them (no MLflow, no bar, no state on disk) and with all of it: the event log, the uploader that sends it to a
fresh MLflow store, a progress bar on a terminal, a state every 50 steps and each epoch. A series ends when its last
training ends. The difference of the two is small beside the noise of most machines, so the seconds that the training
spends in calls to the recorder, the bar and the states are told as well. `--without PART` leaves one part away. Nothing
of the project's folder is changed.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

EXPERIMENT = "true_batch_001"
PARTS = ("tracking", "progress", "states")


@dataclass
class Series:
    """Seconds of several trainings in a row, means a training."""

    command: float
    """From the start of the process to its end."""
    training: float
    """From the first step to the end of the run."""
    trainer: float
    """Processor time of the training, without what it loads before."""
    uploader: float
    """Processor time of the uploader, its start included."""
    inside: float
    """Seconds in calls to what surrounds the training."""


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


class Timed:
    """Passes calls on, and adds up the seconds that they take."""

    seconds = 0.0

    def __init__(self, target):
        self._target = target

    def __getattr__(self, name):
        method = getattr(self._target, name)

        def call(*arguments):
            began = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                Timed.seconds += time.perf_counter() - began

        return call

    def __enter__(self):
        return self.__getattr__("__enter__")() and self

    def __exit__(self, *fault):
        return self.__getattr__("__exit__")(*fault)


def train(fold: int, turn: int, parts: list[str]) -> None:
    """Train one fold in this process, as `sensorium train` does, and print what it took."""
    from sensorium.processes import tune_process

    tune_process()
    from sensorium.config import load
    from sensorium.paths import PARAMS_FILE, Paths

    here = Path.cwd()
    config, paths = load(here / PARAMS_FILE), Paths(here)
    if "tracking" in parts:
        from sensorium.tracking.store import TrackingStore
        from sensorium.tracking.uploader_process import ensure_running

        ensure_running(TrackingStore.of(paths))
    from rich.console import Console

    from sensorium import tracking
    from sensorium.callbacks.checkpoints import CheckpointFolder
    from sensorium.callbacks.progress import TrainingProgress
    from sensorium.callbacks.recorder import Recorder, closing
    from sensorium.callbacks.stopping import StopRequest
    from sensorium.data.store import MouseStore
    from sensorium.lineage import provenance
    from sensorium.stages import train as stage
    from sensorium.training import devices
    from sensorium.training.assembly import assemble
    from sensorium.training.loop import Callbacks, Trainer

    known = provenance(config, paths, EXPERIMENT, fold, None)
    recorder = partial(tracking.start_training_run, config, paths, EXPERIMENT, fold, f"{turn}-{fold}")
    fabric = devices.make_fabric(config.runtime, "32-true", unused_readouts=True)
    devices.make_deterministic(fabric, config.runtime.threads)
    job = stage.Job(config, paths, EXPERIMENT, fold, known, recorder)
    stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
    learner, source, validation = assemble(fabric, config, paths, EXPERIMENT, fold, stores)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    folder = CheckpointFolder(paths.state / "train", f"{turn}-{fold}") if "states" in parts else Nowhere()
    console.quiet = "progress" not in parts
    view = TrainingProgress(
        f"{EXPERIMENT} fold {fold}", learner.steps, config.experiment(EXPERIMENT).training.epochs, console
    )
    folder, view, job_ = Timed(folder), Timed(view), Timed(job)
    wall, own = time.perf_counter(), time.process_time()
    with StopRequest(None) as stop:
        written = Timed(job_.open_recorder()) if "tracking" in parts else Recorder()
        with closing(written), view.bar:
            around = Callbacks(written, view, stop)
            Trainer(learner, source, validation, folder, config.runtime.checkpoint_steps, around).run()
    spent = {"training": time.perf_counter() - wall, "trainer": time.process_time() - own, "inside": Timed.seconds}
    print(json.dumps(spent))


def series(folds: int, turn: int, parts: list[str]) -> Series:
    """Train folds one after another, and wait until nobody delivers any more."""
    times, commands = [], []
    for fold in range(folds):
        began = time.perf_counter()
        call = [sys.executable, __file__, "--train", f"{fold}", f"{turn}", *parts]
        told = subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout
        commands.append(time.perf_counter() - began)
        times.append(json.loads(told))
    uploader = settle() / folds
    means = {key: statistics.fmean(one[key] for one in times) for key in times[0]}
    return Series(statistics.fmean(commands), **means, uploader=uploader)


def settle() -> float:
    """Wait until no uploader is left; returns the processor seconds that it took in all."""
    import psutil

    spent = 0.0
    while uploaders := [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[2:5] == ["-m", "sensorium.tracking", str(Path.cwd())]
    ]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used = uploaders[0].cpu_times()
            spent = used.user + used.system
        time.sleep(0.1)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folds", type=int, default=3, help="trainings of a series")
    parser.add_argument("--without", choices=PARTS, action="append", default=[])
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        fold, turn, *parts = options.train
        train(int(fold), int(turn), parts)
        return
    from sensorium.config import load
    from sensorium.paths import PARAMS_FILE, Paths, find_root
    from sensorium.tracking.store import TrackingStore

    root = find_root()
    for variable in ("MLFLOW_TRACKING_URI", "SENSORIUM_TRACKING_TIMEOUT", "SENSORIUM_UPLOADER_IDLE_TIMEOUT"):
        os.environ.pop(variable, None)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        there = Path(scratch)
        shutil.copy(root / PARAMS_FILE, there)
        (there / "data").mkdir()
        for name in ("store", "folds"):
            (there / "data" / name).symlink_to(root / "data" / name)
        (there / "sensorium").symlink_to(root / "sensorium")
        load(there / PARAMS_FILE)
        TrackingStore.of(Paths(there)).client()  # makes the tables once, as the first of many trainings does
        full = [part for part in PARTS if part not in options.without]
        spent: dict[str, list[Series]] = {"bare": [], "full": []}
        for turn in range(options.turns + 1):
            for name, parts in (("bare", []), ("full", full)):
                one = series(options.folds if turn else 1, turn, parts)
                if turn > 0:  # the first one warms up
                    spent[name].append(one)
    report(spent["bare"], spent["full"], full)


def report(bare: list[Series], full: list[Series], parts: list[str]) -> None:
    print(f"\n{os.cpu_count()} processors, {len(bare)} turns, seconds a training, medians\n")
    print(
        "| | whole command | from the first step on | trainer's processor time | in calls | uploader's processor time |"
    )
    print("|---|---|---|---|---|---|")
    for name, times in (("bare", bare), (f"with {', '.join(parts)}", full)):
        keys = ("command", "training", "trainer", "inside", "uploader")
        row = [statistics.median(getattr(one, key) for one in times) for key in keys]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |")
    for key in ("command", "training", "trainer"):
        shares = [getattr(more, key) / getattr(less, key) - 1 for less, more in zip(bare, full, strict=True)]
        print(f"\n{key}: {100 * statistics.median(shares):+.1f} % (turn by turn, median)", end="")
    inside = statistics.median(more.inside / less.training for less, more in zip(bare, full, strict=True))
    print(f"\nin calls: {100 * inside:.1f} % of the bare training")


if __name__ == "__main__":
    main()
