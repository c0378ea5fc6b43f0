"""Atomic writes, digests and locks."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from sensorium import files
from sensorium.errors import DataError, TrainingError


class Fault(Exception):
    """What a writer may die of."""


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with files.atomic_file(target) as partial:
        partial.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert [f.name for f in target.parent.iterdir()] == ["file.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    files.write_text(target, "old")

    def fail():
        with files.atomic_file(target) as partial:
            partial.write_text("new, unfinish")
            raise Fault

    with pytest.raises(Fault):
        fail()
    assert target.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_replaces_the_old_one(tmp_path):
    target = tmp_path / "out"
    for name in ("first", "second"):
        with files.atomic_folder(target) as partial:
            (partial / name).write_text(name)
    assert [f.name for f in target.iterdir()] == ["second"]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "out"
    with files.atomic_folder(target) as partial:
        (partial / "kept").touch()

    def fail():
        with files.atomic_folder(target) as partial:
            (partial / "lost").touch()
            raise Fault

    with pytest.raises(Fault):
        fail()
    assert [f.name for f in target.iterdir()] == ["kept"]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def write_folder(target, name):
    with files.atomic_folder(target) as partial:
        (partial / name).write_text(name)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_the_old_folder_goes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch, fault):
    target, rename = tmp_path / "out", Path.rename
    write_folder(target, "old")

    def refuse(self, new):
        if self.name.endswith(files.PARTIAL_SUFFIX):
            raise fault
        return rename(self, new)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(type(fault)):
        write_folder(target, "new")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def killed(target, old=True, new=False):
    """The folders that a writer leaves when it is killed between its renames, or right after them."""
    if old:
        write_folder(target.with_name(f".{target.name}.0a1b2c3d.retired"), "old")
    if new:
        write_folder(target, "new")
    write_folder(target.with_name(f".{target.name}.4e5f6a7b.partial"), "half")
    target.with_name(f".{target.name}.8c9d0e1f.partial").write_text("half a file")


@pytest.mark.parametrize(("old", "new", "kept"), [(True, False, "old"), (True, True, "new"), (False, True, "new")])
def test_what_a_kill_left_is_put_right(tmp_path, old, new, kept):
    target = tmp_path / "out"
    killed(target, old, new)
    files.tidy(target)
    assert names(target) == [kept]
    assert names(tmp_path) == ["out"]


def test_of_several_retired_folders_the_last_comes_back(tmp_path):
    for number in ("1", "0"):
        write_folder(tmp_path / f".out.{number}.retired", number)
        time.sleep(0.01)
    files.tidy(tmp_path / "out")
    assert names(tmp_path / "out") == ["0"]
    assert names(tmp_path) == ["out"]


def test_only_what_belongs_to_the_name_is_put_right(tmp_path):
    others = [".out.zarr.12.partial", ".outer.12.partial", "out.12.partial", ".out.12.kept", "out.zarr"]
    for name in others:
        (tmp_path / name).mkdir()
    files.tidy(tmp_path / "out")
    files.tidy(tmp_path / "none" / "out")
    assert names(tmp_path) == sorted(others)


def test_an_exclusive_lock_finds_its_outputs_put_right(tmp_path):
    first, second, lock = tmp_path / "a" / "out", tmp_path / "b" / "out", tmp_path / "lock"
    for target in (first, second):
        killed(target)
    with files.exclusive_lock(lock, TrainingError("busy"), first, second):
        assert [names(first), names(second)] == [["old"], ["old"]]
        assert [names(first.parent), names(second.parent)] == [["out"], ["out"]]
        killed(first)
        with pytest.raises(TrainingError, match="busy"), files.exclusive_lock(lock, TrainingError("busy"), first):
            raise AssertionError("two writers")
        assert len(names(first.parent)) == 4


def test_a_full_disk_names_the_file(tmp_path):
    def fill(how):
        with how(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")

    for how in (files.atomic_file, files.atomic_folder):
        with pytest.raises(OSError, match="No space left") as fault:
            fill(how)
        assert fault.value.filename == str(tmp_path / "out")


def test_json_bytes_do_not_depend_on_order(tmp_path):
    files.write_json(tmp_path / "a", {"x": 1, "y": [1.5, None]})
    files.write_json(tmp_path / "b", {"y": [1.5, None], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")
    assert files.digest_json({"x": 1, "y": 2}) == files.digest_json({"y": 2, "x": 1})


def test_json_refuses_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a", float("nan"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("content", "words"), [(None, "does not exist"), ("{", "not valid JSON")])
def test_unreadable_json_is_told(tmp_path, content, words):
    path = tmp_path / "pin.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=words) as fault:
        files.read_json(path, DataError, "Run it again.")
    assert str(path) in str(fault.value)
    assert fault.value.remedy == "Run it again."


def _hold(path, ready):
    with files.exclusive_lock(path, TrainingError("busy")):
        ready.set()
        time.sleep(60)


def test_a_lock_excludes_and_dies_with_its_holder(tmp_path):
    path = tmp_path / "locks" / "fold"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(path, ready))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(TrainingError, match="busy"), files.exclusive_lock(path, TrainingError("busy")):
        raise AssertionError("two holders")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with files.exclusive_lock(path, TrainingError("busy")):
        pass
