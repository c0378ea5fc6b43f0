"""A training that is killed and started again ends with the same bytes as one that never was."""

import random
import shutil
import time
from pathlib import Path

import pytest
from training_runs import change_params, digests, finish, leftovers, start, states

TRIALS = {"experiments.true_batch_001.training.cosine_epochs": 3, "runtime.checkpoint_steps": 2}


@pytest.fixture
def reference(project: Path, tmp_path: Path) -> dict[str, str]:
    """Output of the uninterrupted training."""
    change_params(project, TRIALS)
    whole = tmp_path / "whole"
    shutil.copytree(project, whole)
    return finish(whole)


def kill_until_done(root: Path, moments: random.Random, longest: float) -> int:
    """Kill by the clock or at a file operation, start again, and so on; returns the number of kills."""
    for kills in range(1000):
        event = moments.randint(1, 25) if moments.random() < 0.5 else None
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
        assert not states(project)


def test_three_kills_change_no_bit(project: Path, reference: dict[str, str]) -> None:
    run_kill_test(project, reference, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_change_no_bit(project: Path, reference: dict[str, str]) -> None:
    run_kill_test(project, reference, 20)
