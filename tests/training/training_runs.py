"""Trainings in processes of their own, that can be killed. Imported by those processes too."""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import yaml

if TYPE_CHECKING:
    from sensorium.callbacks.recorder import Recorder

EXPERIMENT = "true_batch_001"
STUDENT = "distillation_001"

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sensorium.stages.train"])


def change_params(root: Path, changes: Mapping[str, Any]) -> None:
    """Set dotted keys of params.yaml."""
    path = root / "params.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = tree
        for name in parents:
            section = section[name]
        section[last] = value
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def no_recorder(*_: object) -> "Recorder":
    """What stands in for MLflow."""
    from sensorium.callbacks.recorder import Recorder

    return Recorder()


def train_here(root: Path, experiment: str = EXPERIMENT, fold: int = 0) -> None:
    """Run the stage in this process, without MLflow."""
    from sensorium import lineage, tracking
    from sensorium.config import load
    from sensorium.paths import Paths
    from sensorium.stages import train

    with (
        patch.object(tracking, "start_training_run", no_recorder),
        patch.object(lineage, "TRAINING_CODE", ()),  # editing the code while the tests run starts no training anew
    ):
        train.train_fold(load(root / "params.yaml"), Paths(root), experiment, fold)


def kill_at_file_event(number: int) -> None:
    """Make this process kill itself just before its n-th flush, rename, replacement or removal of a file."""
    seen = 0

    def wrap(function):
        def counted(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, wrap(getattr(os, name)))


def _child(root: Path, experiment: str, fold: int, kill_event: int | None) -> None:
    from sensorium.errors import SensoriumError

    sys.stderr = (root / "stderr.txt").open("a", buffering=1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, also for the tests that it starts
    if kill_event is not None:
        kill_at_file_event(kill_event)
    try:
        train_here(root, experiment, fold)
    except SensoriumError as fault:
        sys.stderr.write(f"Error: {fault}\n")
        sys.exit(fault.exit_code)


def start(
    root: Path, experiment: str = EXPERIMENT, fold: int = 0, kill_event: int | None = None
) -> multiprocessing.Process:
    """Start a training; its standard error goes to stderr.txt in the project."""
    process = CONTEXT.Process(target=_child, args=(root, experiment, fold, kill_event))
    process.start()
    return process


def finish(root: Path, experiment: str = EXPERIMENT, fold: int = 0) -> dict[str, str]:
    """Train to the end; the digests of the output."""
    process = start(root, experiment, fold)
    process.join()
    assert process.exitcode == 0, (root / "stderr.txt").read_text(encoding="utf-8")
    return digests(root, experiment, fold)


def digests(root: Path, experiment: str = EXPERIMENT, fold: int = 0) -> dict[str, str]:
    """SHA-256 of each file of a trained fold."""
    folder = root / "data" / "experiments" / experiment / f"fold_{fold}"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def checkpoints(root: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted((root / ".sensorium" / "train").glob("*/*.pt"))


def leftovers(root: Path) -> list[Path]:
    """Everything half-written."""
    return list(root.rglob("*.partial"))


if __name__ == "__main__":
    _child(Path(sys.argv[1]), EXPERIMENT, 0, None)
