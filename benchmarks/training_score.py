"""Validation correlation of the package's model beside its plain form: equal data, settings and first weights.

    sensorium ingest -m ... && sensorium folds && python benchmarks/training_score.py --seeds 3

trains the chosen folds of the teacher once with each form, by the stage's own code, and prints the best validation
correlation of each. Where the two differ, it is by rounding, which training amplifies: look at the mean difference
and its standard error. Nothing of the project's folder is changed.
"""

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from sensorium.data.store import MouseStore
from sensorium.processes import tune_process

tune_process()

from sensorium.callbacks.checkpoints import CheckpointFolder
from sensorium.callbacks.progress import TrainingProgress
from sensorium.callbacks.recorder import Recorder
from sensorium.callbacks.stopping import StopRequest
from sensorium.config import Config, load
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.paths import PARAMS_FILE, Paths, find_root
from sensorium.stages import train as stage
from sensorium.training import devices
from sensorium.training.assembly import assemble
from sensorium.training.loop import Callbacks, Trainer

sys.path.insert(0, str(Path(__file__).parent))
from plain_form import PlainDwiseNeuro, match

EXPERIMENT = "true_batch_001"


def plain_model(config, neurons):
    """The plain form with the weights that the package's model would begin with."""
    ours, plain = DwiseNeuro(config, neurons), PlainDwiseNeuro(config, neurons)
    match(plain, ours)
    return plain


FORMS = {"plain": plain_model, "ours": DwiseNeuro}


def train(config: Config, paths: Paths, fold: int, form: str) -> float:
    """Best validation correlation of one training."""
    stage.build = FORMS[form]
    fabric = devices.make_fabric(config.runtime, "32-true", unused_readouts=True)
    devices.make_deterministic(fabric, config.runtime.threads)
    stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
    learner, source, validation = assemble(fabric, config, paths, EXPERIMENT, fold, stores)
    with tempfile.TemporaryDirectory() as scratch, StopRequest(None) as stop:
        callbacks = Callbacks(Recorder(), TrainingProgress("", 1, 1, Console(quiet=True)), stop)
        folder = CheckpointFolder(Path(scratch), form)
        best, _ = Trainer(learner, source, validation, folder, sys.maxsize, callbacks).run()
    return best.correlation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    root = find_root()
    config, paths = load(root / PARAMS_FILE), Paths(root)
    print("| fold | seed | plain | ours | ours - plain |")
    print("|---|---|---|---|---|", flush=True)
    differences = []
    for fold in config.folds.train.values():
        for seed in range(seeds):
            seeded = config.model_copy(update={"seed": seed})
            plain, ours = (train(seeded, paths, fold, form) for form in FORMS)
            differences.append(ours - plain)
            print(f"| {fold} | {seed} | {plain:.4f} | {ours:.4f} | {ours - plain:+.4f} |", flush=True)
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    print(f"\nmean difference {statistics.mean(differences):+.4f}, standard error {error:.4f}")


if __name__ == "__main__":
    main()
