"""A training that is killed and started again ends with the same bytes as one that never was."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

import pytest
import training_runs
from training_runs import change_params, checkpoints, digests, finish, leftovers, start

from sensorium.errors import TrainingError
from sensorium.files import exclusive_lock

RUNS = Path(training_runs.__file__)
LONG = {"experiments.true_batch_001.training.samples_per_epoch": 180, "runtime.checkpoint_steps": 5}
TRIALS = {"experiments.true_batch_001.training.cosine_epochs": 3, "runtime.checkpoint_steps": 2}


def train_whole(ingested: Path, root: Path, changes: dict[str, int]) -> dict[str, str]:
    """Output of the uninterrupted training."""
    shutil.copytree(ingested, root)
    change_params(root, changes)
    return finish(root)


@pytest.fixture(scope="module")
def short_training(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return train_whole(ingested, tmp_path_factory.mktemp("short") / "project", TRIALS)


@pytest.fixture(scope="module")
def long_training(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return train_whole(ingested, tmp_path_factory.mktemp("long") / "project", LONG)


@pytest.fixture
def reference(project: Path, short_training: dict[str, str]) -> dict[str, str]:
    """Output of the training that `project` is now set to."""
    change_params(project, TRIALS)
    return short_training


def kill_until_done(root: Path, moments: random.Random, longest: float) -> int:
    """Kill by the clock or at a file operation, start again, and so on; returns the number of kills."""
    for kills in range(1000):
        event = moments.randint(1, 60) if moments.random() < 0.5 else None
        process = start(root, kill_event=event)
        process.join(None if event else moments.uniform(0.0, longest))
        process.kill()
        process.join()
        if process.exitcode == 0:
            return kills
    raise AssertionError("the training never ends")


def run_kill_test(project: Path, reference: dict[str, str], wanted: int) -> None:
    moments, kills = random.Random(wanted), 0
    while kills < wanted:
        shutil.rmtree(project / "data" / "experiments", ignore_errors=True)
        began = time.monotonic()
        kills += kill_until_done(project, moments, longest=3.0)
        assert time.monotonic() - began < 600
        assert digests(project) == reference
        assert not leftovers(project)
        assert not checkpoints(project)


def test_three_kills_change_no_bit(project: Path, reference: dict[str, str]) -> None:
    run_kill_test(project, reference, 3)


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_twenty_kills_change_no_bit(project: Path, reference: dict[str, str]) -> None:
    run_kill_test(project, reference, 20)


def leave_checkpoints(project: Path) -> None:
    """Train until two checkpoints lie there, then die."""
    process = start(project, kill_event=16)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(checkpoints(project)) == 2


def test_other_settings_never_go_on_with_a_state(project: Path, tmp_path: Path) -> None:
    change_params(project, TRIALS)
    leave_checkpoints(project)
    change_params(project, {"experiments.true_batch_001.training.learning_rate": 0.001})
    clean = Path(shutil.copytree(project, tmp_path / "clean", ignore=shutil.ignore_patterns(".sensorium")))
    before = checkpoints(project)
    assert finish(project) == finish(clean)
    assert checkpoints(project) == before


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_are_passed_over(project: Path, reference: dict[str, str], damaged: int) -> None:
    leave_checkpoints(project)
    for path in checkpoints(project)[-damaged:]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert finish(project) == reference
    output = (project / "stderr.txt").read_text(encoding="utf-8")
    assert output.count("is damaged and was removed") == damaged


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_saves_first(project: Path, long_training: dict[str, str], number: int, code: int) -> None:
    change_params(project, LONG)
    process = start(project)
    wait_for_checkpoint(project, process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    output = " ".join((project / "stderr.txt").read_text(encoding="utf-8").split())
    name = signal.Signals(number).name
    found = re.search(rf"stopped by {name} in epoch (\d+) after (\d+) steps; a checkpoint is saved", output)
    assert found, output
    assert checkpoints(project)[-1].name.startswith(f"{int(found[1]) - 1:06d}-{int(found[2]):09d}-")
    assert finish(project) == long_training


def wait_for_checkpoint(root: Path, process: Process) -> None:
    while not checkpoints(root):
        assert process.is_alive(), (root / "stderr.txt").read_text(encoding="utf-8")
        time.sleep(0.02)


@pytest.mark.parametrize("shell_stays", [True, False])
def test_a_stage_ends_with_dvc(project: Path, shell_stays: bool) -> None:
    """Kill what stands for `dvc repro`, whose shell may replace itself by the command or wait for it."""
    change_params(project, {"experiments.true_batch_001.training.samples_per_epoch": 60000})
    command = f"{sys.executable} {RUNS} {project}" + ("; true" if shell_stays else "")
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run(['/bin/sh', '-c', sys.argv[1]])", command],
        env={**os.environ, "DVC_STAGE": "train@true_batch_001-0"},
        start_new_session=True,
    )
    while not checkpoints(project):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    lock = project / ".sensorium" / "locks" / "train-true_batch_001-fold_0.lock"
    for _ in range(200):
        try:
            with exclusive_lock(lock, TrainingError("still at work")):
                break
        except TrainingError:
            time.sleep(0.1)
    else:
        raise AssertionError("the trainer outlives its parent")
    output = (project / "stderr.txt").read_text(encoding="utf-8")
    assert "stopped by SIGTERM" in output
