"""Several processes train one fold: the loss and the metric are those of one process."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import training_runs
from lightning_fabric.fabric import Fabric
from training_runs import EXPERIMENT, change_params, checkpoints, finish, start, train_here

from sensorium.config import RuntimeConfig, load
from sensorium.data.dataset import ValidationData
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, TrainingError
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.paths import Paths
from sensorium.training.devices import launch, make_fabric
from sensorium.training.losses import poisson
from sensorium.training.validation import FoldValidation

ITER_SIZE = f"experiments.{EXPERIMENT}.training.iter_size"
TWO = RuntimeConfig(accelerator="cpu", devices=2, workers=0, checkpoint_steps=2)
ONE = TWO.model_copy(update={"devices": 1})


def history(root: Path) -> list[dict[str, float]]:
    path = root / "data" / "experiments" / EXPERIMENT / "fold_0" / "history.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def score(fabric: Fabric, root: Path) -> dict[str, float]:
    """Validate a model of fixed weights."""
    import torch

    config, paths = load(root / "params.yaml"), Paths(root)
    stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
    data = ValidationData(stores, Folds.load(paths.folds), 0, config.window)
    settings = config.experiment(EXPERIMENT)
    torch.manual_seed(0)
    model = DwiseNeuro(settings.model, [store.neurons for store in stores]).eval()
    validation = FoldValidation(fabric, data, list(config.dataset.mice), settings.model.canvas, 2, poisson)
    return validation(model, lambda: None)


def divide_by_zero_in_the_second(fabric: Fabric) -> None:
    if fabric.global_rank == 1:
        raise ZeroDivisionError


def refuse_in_the_second(fabric: Fabric) -> None:
    if fabric.global_rank == 1:
        raise TrainingError("no memory.", "Buy some.")
    fabric.barrier()


def test_the_metric_is_that_of_one_process(project: Path) -> None:
    scores = [launch(make_fabric(runtime, "32-true", unused_readouts=True), score, project) for runtime in (ONE, TWO)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-9)
    assert len(scores[0]) == 5


def test_the_loss_is_that_of_one_process_with_two_chunks(project: Path, tmp_path: Path) -> None:
    """Batch norm sees the same windows together, dropout draws the same numbers."""
    change_params(project, {ITER_SIZE: 2})
    train_here(project)
    alone = history(project)
    change_params(project, {ITER_SIZE: 1, "runtime.devices": 2})
    train_here(project)
    together = history(project)
    losses = [[row["train_loss"] for row in rows] for rows in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    correlations = [[row["val_correlation"] for row in rows] for rows in (alone, together)]
    assert correlations[1] == pytest.approx(correlations[0], abs=0.05)  # running statistics are averaged otherwise


@pytest.mark.slow
def test_a_student_trains_on_two_processes(project: Path) -> None:
    train_here(project)
    change_params(project, {"runtime.devices": 2})
    train_here(project, training_runs.STUDENT)
    assert (project / "data" / "experiments" / training_runs.STUDENT / "fold_0" / "model.safetensors").is_file()


def test_two_processes_stop_together_and_go_on(project: Path) -> None:
    change_params(project, {"runtime.devices": 2, f"experiments.{EXPERIMENT}.training.samples_per_epoch": 600})
    process = start(project)
    while not checkpoints(project):
        assert process.is_alive()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    spoken = (project / "stderr.txt").read_text(encoding="utf-8")
    assert process.exitcode == 143, spoken
    assert "stopped by SIGTERM" in spoken
    assert checkpoints(project)
    change_params(project, {f"experiments.{EXPERIMENT}.training.samples_per_epoch": 24})
    train_here(project)


def test_a_training_goes_on_after_one_of_its_processes_was_killed(project: Path) -> None:
    change_params(project, {"runtime.devices": 2, f"experiments.{EXPERIMENT}.training.samples_per_epoch": 120})
    process = start(project)
    while not checkpoints(project):
        assert process.is_alive()
        time.sleep(0.05)
    ranks = [each for each in psutil.Process(process.pid).children() if "--multiprocessing-fork" in each.cmdline()]
    ranks[-1].kill()
    process.join()
    assert process.exitcode == 1
    assert "died: process" in (project / "stderr.txt").read_text(encoding="utf-8")
    continued = finish(project)
    shutil.rmtree(project / "data" / "experiments")
    assert finish(project) == continued


@pytest.mark.slow
def test_torchrun_trains_one_fold(project: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, training_runs.__file__, str(project)], check=True, timeout=250)
    assert len(history(project)) == 2


def test_a_fault_of_one_process_reaches_the_user() -> None:
    fabric = make_fabric(TWO, "32-true", unused_readouts=True)
    with pytest.raises(TrainingError, match=r"no memory.\nBuy some."):
        launch(fabric, refuse_in_the_second)


def test_a_broken_process_ends_the_training() -> None:
    fabric = make_fabric(TWO, "32-true", unused_readouts=True)
    with pytest.raises(TrainingError, match="training process 1 died"):
        launch(fabric, divide_by_zero_in_the_second)


def test_more_processes_than_windows_are_refused(project: Path) -> None:
    change_params(project, {"runtime.devices": 2, f"experiments.{EXPERIMENT}.training.batch_size": 1})
    with pytest.raises(ConfigError, match="cannot be shared by 2 processes"):
        train_here(project)
