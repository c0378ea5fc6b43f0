"""Listing and removing the checkpoints of unfinished trainings."""

import os
import time
from pathlib import Path

import pytest
import torch

from sensorium.callbacks.checkpoints import CheckpointFolder, TrainingInfo, stored_checkpoints
from sensorium.commands import checkpoints as command
from sensorium.errors import ConfigError, TrainingError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths

DAY = 86400
FIRST, SECOND, OLD = "aa11" * 16, "aa22" * 16, "bb33" * 16


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A project with checkpoints of two folds, and of one whose name is unknown, four days old."""
    paths = Paths(tmp_path)
    parent = paths.state / "train"
    for name, about in ((FIRST, TrainingInfo("teacher", 0, 30)), (SECOND, TrainingInfo("student", 1, 30)), (OLD, None)):
        folder = CheckpointFolder(parent, name, about)
        folder.save_best(1, {"w": torch.zeros(2)})
        folder.save(2, 0, {})
        folder.save(2, 7, {})
    for path in (parent / OLD, *(parent / OLD).iterdir()):
        os.utime(path, (time.time() - 4 * DAY,) * 2)
    return paths


def kept(paths: Paths) -> list[str]:
    return sorted(path.name for path in (paths.state / "train").iterdir())


def test_checkpoints_are_listed_the_oldest_first(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    command.run(paths)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    expected = [["bb33bb33bb33", "unknown", "4.0 days"], ["teacher fold 0", "2 of 30"], ["student fold 1", "2 of 30"]]
    for row, words in zip(rows, expected, strict=True):
        assert all(word in row for word in words), row
    assert kept(paths) == [FIRST, SECOND, OLD]


def test_that_there_are_none_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.run(Paths(tmp_path))
    assert "No checkpoints" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_one_state_is_removed_by_the_start_of_its_id(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    command.run(paths, ["aa11"])
    assert "aa11aa11aa11 (teacher fold 0): removed" in capsys.readouterr().out
    assert kept(paths) == [SECOND, OLD]


@pytest.mark.parametrize(("identity", "count"), [("aa", 2), ("cc", 0), ("", 0)])
def test_an_id_that_is_not_one_removes_nothing(paths: Paths, identity: str, count: int) -> None:
    with pytest.raises(ConfigError, match=f"names {count} trainings") as fault:
        command.run(paths, ["bb33", identity])
    assert "Choose among: bb33bb33bb33, " in fault.value.remedy
    assert kept(paths) == [FIRST, SECOND, OLD]


def test_what_is_being_trained_stays(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive_lock(paths.training_lock("teacher", 0), TrainingError("held")):
        with pytest.raises(TrainingError, match=r"teacher fold 0.*is being trained"):
            command.run(paths, ["aa11"])
        with pytest.raises(TrainingError, match=r"unknown.*is being trained"):
            command.run(paths, ["bb33"])
        command.run(paths, ["all"])
        assert "aa11aa11aa11 (teacher fold 0): is being trained, its checkpoints stay." in capsys.readouterr().out
    assert kept(paths) == [FIRST, OLD]
    command.run(paths, ["all"])
    assert kept(paths) == []


def test_a_removal_that_was_killed_is_finished(paths: Paths) -> None:
    parent = paths.state / "train"
    (parent / FIRST).rename(parent / f".{FIRST}.partial")
    (parent / f".{FIRST}.partial" / "training.json").write_text("{")
    assert [found.identity for found in stored_checkpoints(parent) if found.info is None] == ["bb33" * 3, "aa11" * 3]
    command.run(paths, ["aa11"])
    assert kept(paths) == [SECOND, OLD]
