"""Validation correlation of experiments by learning rate, each training ended by its own early stopping.

    dvc repro folds && python benchmarks/learning_rates.py -e baseline_001 -e true_batch_001 -r 0.005 -r 0.01 -r 0.02

trains the folds of params.yaml with the settings of params.yaml but for the learning rate, the number of epochs and the
patience (`--set training.weight_decay=0.1` changes others as well), by the stage's own code, and prints the best
validation correlation of each. Nothing of the project's folder is changed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from sensorium.data.store import MouseStore
from sensorium.processes import tune_process

tune_process()

from sensorium.callbacks.checkpoints import CheckpointFolder
from sensorium.callbacks.progress import TrainingProgress
from sensorium.callbacks.recorder import Recorder
from sensorium.callbacks.stopping import StopRequest
from sensorium.config import Config, load, parse
from sensorium.paths import PARAMS_FILE, Paths, find_root
from sensorium.training import devices
from sensorium.training.assembly import assemble
from sensorium.training.loop import Callbacks, Trainer


def changed(config: Config, experiment: str, changes: Mapping[str, Any]) -> Config:
    """Settings with other values of an experiment, by dotted keys."""
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = tree["experiments"][experiment]
        for name in sections:
            section = section[name]
        section[last] = value
    return parse(tree, "the command line")


def train(config: Config, paths: Paths, experiment: str, fold: int) -> tuple[float, int, float]:
    """Best validation correlation of one training, the number of its epochs, and its seconds."""
    settings = config.experiment(experiment)
    fabric = devices.make_fabric(
        config.runtime, settings.training.precision, unused_readouts=settings.distillation is None
    )
    devices.make_deterministic(fabric, config.runtime.threads)
    began = time.process_time()
    stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
    learner, source, validation = assemble(fabric, config, paths, experiment, fold, stores)
    with tempfile.TemporaryDirectory() as scratch, StopRequest(None) as stop:
        callbacks = Callbacks(Recorder(), TrainingProgress("", 1, 1, Console(quiet=True)), stop)
        folder = CheckpointFolder(Path(scratch), "learning-rates")
        best, rows = Trainer(learner, source, validation, folder, sys.maxsize, callbacks).run()
    return best.correlation, len(rows), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-e", "--experiment", action="append", required=True)
    parser.add_argument("-r", "--rate", type=float, action="append", required=True)
    parser.add_argument("--epochs", type=int, help="of cosine decay; those of params.yaml by default")
    parser.add_argument("--patience", type=int, help="epochs; that of params.yaml by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-f", "--fold", type=int, action="append", help="those of params.yaml by default")
    options = parser.parse_args()
    root = find_root()
    config, paths = load(root / PARAMS_FILE), Paths(root)
    common = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in options.set)}
    for key, value in (("cosine_epochs", options.epochs), ("early_stopping", options.patience)):
        if value is not None:
            common[f"training.{key}"] = value
    print("| experiment | learning rate | correlation, mean over folds | by fold | epochs | CPU seconds a fold |")
    print("|---|---|---|---|---|---|", flush=True)
    for experiment in options.experiment:
        for rate in options.rate:
            tuned = changed(config, experiment, common | {"training.learning_rate": rate})
            done = [train(tuned, paths, experiment, fold) for fold in options.fold or config.folds.train.values()]
            scores, epochs, seconds = zip(*done, strict=True)
            folds = " ".join(f"{score:.4f}" for score in scores)
            mean, cost = statistics.mean(scores), statistics.mean(seconds)
            cells = [experiment, f"{rate:g}", f"{mean:.4f}", folds, " ".join(map(str, epochs)), f"{cost:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
