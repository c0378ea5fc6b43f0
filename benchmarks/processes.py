"""Train one fold of the demonstration's model with one process and with two, which talk through gloo.

    python benchmarks/processes.py [--epochs 7]

simulates the demonstration's recordings in a temporary folder, and prints a Markdown table: seconds from the first
step to the end, without the start of the processes, and the losses of the epochs. One process splits its batch in two
chunks, as two processes share it, so both compute the same function up to rounding. Each process has one thread.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console

from sensorium.callbacks.checkpoints import CheckpointFolder
from sensorium.callbacks.progress import TrainingProgress
from sensorium.callbacks.recorder import Recorder
from sensorium.callbacks.stopping import StopRequest
from sensorium.config import Config, load
from sensorium.data.store import MouseStore
from sensorium.experiments import compose
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.stages import folds, ingest
from sensorium.training import devices
from sensorium.training.assembly import assemble
from sensorium.training.loop import Callbacks, Trainer

EXPERIMENT = "true_batch_001"


def settings(root: Path, epochs: int, processes: int) -> Config:
    """The demonstration's settings for a number of processes, written into a project."""
    tree = yaml.safe_load(compose(Path(__file__).parents[1], "demo"))
    tree["runtime"] |= {"accelerator": "cpu", "threads": 1, "devices": processes}
    training = tree["experiments"][EXPERIMENT]["training"]
    training |= {"cosine_epochs": epochs - training["warmup_epochs"], "iter_size": 2 // processes}
    (root / PARAMS_FILE).write_text(yaml.safe_dump(tree, sort_keys=False))
    return load(root / PARAMS_FILE)


def train(fabric, root: Path) -> tuple[float, list[float]]:
    """Train in one of the processes; seconds, and the loss of each epoch."""
    config, paths = load(root / PARAMS_FILE), Paths(root)
    devices.make_deterministic(fabric, config.runtime.threads)
    stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
    learner, source, validation = assemble(fabric, config, paths, EXPERIMENT, 0, stores)
    folder = CheckpointFolder(root / "checkpoints", str(fabric.world_size))
    with StopRequest(None) as stop:
        callbacks = Callbacks(Recorder(), TrainingProgress("", 1, 1, Console(quiet=True)), stop)
        fabric.barrier()
        began = time.perf_counter()
        _, rows = Trainer(learner, source, validation, folder, sys.maxsize, callbacks).run()
    return time.perf_counter() - began, [row["train_loss"] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, spent, losses = Path(name), {}, {}
        with contextlib.redirect_stdout(sys.stderr):
            config = settings(root, options.epochs, 1)
            for mouse in config.dataset.mice:
                ingest.run(config, Paths(root), mouse)
            folds.run(config, Paths(root))
        for count in (1, 2):
            config = settings(root, options.epochs, count)
            fabric = devices.make_fabric(config.runtime, "32-true", unused_readouts=True)
            spent[count], losses[count] = devices.launch(fabric, train, root)
    print("| processes | seconds | times as fast | last loss | largest relative difference of a loss |")
    print("|---|---|---|---|---|")
    for count in spent:
        apart = max(abs(one / other - 1) for one, other in zip(losses[count], losses[1], strict=True))
        print(
            f"| {count} | {spent[count]:.1f} | {spent[1] / spent[count]:.2f} | {losses[count][-1]:.4f} | {apart:.1e} |"
        )


if __name__ == "__main__":
    main()
