"""Building stores: determinism, dtypes, bad input, killed and concurrent runs."""

import errno
import filecmp
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.files import exclusive_lock
from sensorium.paths import Paths
from sensorium.recordings.raw import RawMouse
from sensorium.stages import ingest

NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
OLD_MOUSE = "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce"


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _different(left: Path, right: Path) -> list[str]:
    """Files whose bytes differ, and files of one side alone."""
    names = _files(left)
    assert names == _files(right)
    return sorted(filecmp.cmpfiles(left, right, names, shallow=False)[1])


def _edit(raw: Path, mouse: str, modality: str, trial: int, change) -> Path:
    path = RawMouse(raw / mouse).file(modality, trial)
    values = np.load(path)
    change(values)
    np.save(path, values)
    return path


def _trial(raw: Path, mouse: str, tier: str) -> int:
    return RawMouse(raw / mouse).tiers.index(tier)


def test_equal_input_gives_equal_bytes(built, tiny_config, tmp_path):
    ingest.run(tiny_config, Paths(tmp_path), NEW_MOUSE)
    assert _different(built.store(NEW_MOUSE), Paths(tmp_path).store(NEW_MOUSE)) == []


def test_a_disk_without_hard_links_gets_the_same_bytes(built, tiny_config, tmp_path, monkeypatch):
    def no_links(source, target, **options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(target))

    monkeypatch.setattr(os, "link", no_links)
    ingest.run(tiny_config, Paths(tmp_path), NEW_MOUSE)
    assert _different(built.store(NEW_MOUSE), Paths(tmp_path).store(NEW_MOUSE)) == []


def test_a_changed_trial_changes_its_chunk_and_the_digest_alone(built, copy_raw, with_raw, tmp_path):
    raw = copy_raw(NEW_MOUSE)

    def add(values):
        values[0, 0] += 1

    _edit(raw, NEW_MOUSE, "responses", _trial(raw, NEW_MOUSE, "train"), add)
    ingest.run(with_raw(raw), Paths(tmp_path), NEW_MOUSE)
    changed = _different(built.store(NEW_MOUSE), Paths(tmp_path).store(NEW_MOUSE))
    assert changed == ["responses/c.0.0.0", "zarr.json"]


@pytest.mark.parametrize("value", [0.5, 256.0, -1.0, 1e9])
def test_videos_that_are_not_whole_grey_levels_stay_float(value, copy_raw, with_raw, tmp_path):
    raw = copy_raw(NEW_MOUSE)

    def spoil(video):
        video[3, 4, 5] = value

    path = _edit(raw, NEW_MOUSE, "videos", 7, spoil)
    ingest.run(with_raw(raw), Paths(tmp_path), NEW_MOUSE)
    store = MouseStore(Paths(tmp_path).store(NEW_MOUSE))
    assert store.frame_dtype == np.float32
    assert store.video(7)[5, 3, 4] == np.float32(value)
    expected = np.load(path)[..., : store.lengths[7]].astype(np.float32)
    assert np.array_equal(store.video(7), np.moveaxis(expected, -1, 0))
    store.verify()


def test_unreleased_test_responses_of_an_old_mouse_are_no_data(copy_raw, with_raw, tmp_path):
    raw = copy_raw(OLD_MOUSE)
    trial = _trial(raw, OLD_MOUSE, "live_test_main")

    def withhold(responses):
        responses[:] = 0

    _edit(raw, OLD_MOUSE, "responses", trial, withhold)
    ingest.run(with_raw(raw), Paths(tmp_path), OLD_MOUSE)
    store = MouseStore(Paths(tmp_path).store(OLD_MOUSE))
    assert not store.labels[trial]
    assert store.labels[_trial(raw, OLD_MOUSE, "final_test_main")]
    behavior = np.load(RawMouse(raw / OLD_MOUSE).file("behavior", trial))
    assert store.lengths[trial] == np.isfinite(behavior[0]).sum()


def _spoil(raw: Path, how: str) -> Path:
    """Damage trial 3's file in one way."""
    if how == "responses of nothing but NaN":
        return _edit(raw, OLD_MOUSE, "responses", _trial(raw, OLD_MOUSE, "train"), lambda v: v.fill(np.nan))
    if how == "a gap in the responses":
        return _edit(
            raw, OLD_MOUSE, "responses", _trial(raw, OLD_MOUSE, "oracle"), lambda v: v.__setitem__((4, 9), np.nan)
        )
    if how == "a gap in the video":
        return _edit(raw, OLD_MOUSE, "videos", 3, lambda v: v.__setitem__((4, 9, 2), np.inf))
    path = RawMouse(raw / OLD_MOUSE).file("behavior", 3)
    if how == "a missing file":
        path.unlink()
    elif how == "a truncated file":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        np.save(path, np.load(path)[:, :-3])
    return path


def test_a_labelled_trial_without_one_valid_response_is_named(copy_raw, with_raw, tmp_path, monkeypatch):
    raw = copy_raw(NEW_MOUSE)
    monkeypatch.setattr("sensorium.recordings.ingest._ROWS", 3)
    path = _edit(raw, NEW_MOUSE, "responses", _trial(raw, NEW_MOUSE, "oracle"), lambda v: v.fill(np.nan))
    with pytest.raises(DataError, match=rf"{path}: not one valid frame, all values are NaN") as fault:
        ingest.run(with_raw(raw), Paths(tmp_path), NEW_MOUSE)
    assert "Restore the file" in fault.value.remedy


@pytest.mark.parametrize(
    "how",
    [
        "responses of nothing but NaN",
        "a gap in the responses",
        "a gap in the video",
        "a missing file",
        "a truncated file",
        "another length",
    ],
)
def test_bad_raw_files_are_named_and_nothing_is_published(how, copy_raw, with_raw, tmp_path):
    raw, paths = copy_raw(OLD_MOUSE), Paths(tmp_path)
    path = _spoil(raw, how)
    with pytest.raises(DataError) as fault:
        ingest.run(with_raw(raw), paths, OLD_MOUSE)
    assert str(path) in fault.value.problem
    assert fault.value.remedy
    assert not paths.stores.exists() or list(paths.stores.iterdir()) == []


@pytest.mark.parametrize(("first_gap", "modality"), [(0, "behavior"), (20, "videos"), (20, "pupil_center")])
def test_of_an_unusable_trial_what_is_sound_is_kept(built, first_gap, modality, copy_raw, with_raw, tmp_path):
    raw, paths = copy_raw(OLD_MOUSE), Paths(tmp_path)
    trial = _trial(raw, OLD_MOUSE, "none")
    frames = slice(None) if first_gap == 0 else slice(first_gap, first_gap + 1)
    _edit(raw, OLD_MOUSE, modality, trial, lambda v: v.__setitem__((-1, ..., frames), np.nan))
    ingest.run(with_raw(raw), paths, OLD_MOUSE)
    store, whole = (MouseStore(place.store(OLD_MOUSE)) for place in (paths, built))
    assert store.lengths[trial] == first_gap
    assert np.array_equal(store.video(trial), whole.video(trial)[:first_gap])
    assert np.array_equal(store.states(trial), whole.states(trial)[:first_gap])
    others = np.arange(store.trials) != trial
    assert np.array_equal(store.lengths[others], whole.lengths[others])
    assert np.array_equal(store.video_hashes[others], whole.video_hashes[others])
    store.verify()


@pytest.mark.parametrize("modality", ["videos", "responses", "behavior"])
def test_values_that_float32_cannot_hold_are_refused(modality, copy_raw, with_raw, tmp_path):
    raw = copy_raw(OLD_MOUSE)
    path = _edit(raw, OLD_MOUSE, modality, _trial(raw, OLD_MOUSE, "train"), lambda v: v.__setitem__((0, ..., 3), -1e39))
    with pytest.raises(DataError, match=rf"{path}: NaN, infinite or too large values before the end of the trial"):
        ingest.run(with_raw(raw), Paths(tmp_path), OLD_MOUSE)
    assert list(Paths(tmp_path).stores.iterdir()) == []


def test_a_failed_run_leaves_the_older_store_alone(built, copy_raw, with_raw, tmp_path):
    raw, paths = copy_raw(OLD_MOUSE), Paths(tmp_path)
    ingest.run(with_raw(raw), paths, OLD_MOUSE)
    _spoil(raw, "a gap in the video")
    with pytest.raises(DataError):
        ingest.run(with_raw(raw), paths, OLD_MOUSE)
    assert _different(built.store(OLD_MOUSE), paths.store(OLD_MOUSE)) == []


def test_truth_of_another_shape_is_refused(copy_raw, with_raw, tmp_path):
    raw = copy_raw(NEW_MOUSE)
    path = raw / ".truth" / NEW_MOUSE / "2.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(DataError, match=r"2.npy: shape .* expected"):
        ingest.run(with_raw(raw), Paths(tmp_path), NEW_MOUSE)
    assert list(Paths(tmp_path).stores.iterdir()) == []


def _hold(lock: Path, held, done) -> None:
    with exclusive_lock(lock, DataError("busy.")):
        held.set()
        done.wait(60)


def test_a_second_writer_is_refused(tiny_config, tmp_path):
    paths, context = Paths(tmp_path), multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    lock = paths.state / "locks" / f"ingest-{NEW_MOUSE}.lock"
    other = context.Process(target=_hold, args=(lock, held, done))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(DataError, match="another process is writing this store"):
            ingest.run(tiny_config, paths, NEW_MOUSE)
        assert not paths.stores.exists()
    finally:
        done.set()
        other.join(60)
    ingest.run(tiny_config, paths, NEW_MOUSE)
    assert paths.store(NEW_MOUSE).is_dir()


def test_a_store_that_a_kill_took_away_comes_back(built, copy_raw, with_raw, tmp_path):
    raw, paths = copy_raw(OLD_MOUSE), Paths(tmp_path)
    paths.stores.mkdir(parents=True)
    shutil.copytree(built.store(OLD_MOUSE), paths.stores / f".{OLD_MOUSE}.zarr.1.retired")
    (paths.stores / f".{OLD_MOUSE}.zarr.2.partial").mkdir()
    _spoil(raw, "a gap in the video")
    with pytest.raises(DataError):
        ingest.run(with_raw(raw), paths, OLD_MOUSE)
    assert list(paths.stores.iterdir()) == [paths.store(OLD_MOUSE)]
    assert _different(built.store(OLD_MOUSE), paths.store(OLD_MOUSE)) == []


_KILLED = """
    import os, signal, sys
    from pathlib import Path
    from sensorium.recordings import ingest as module
    from sensorium.recordings.raw import RawMouse
    from sensorium.files import atomic_folder

    calls = 0
    def advance():
        global calls
        calls += 1
        if calls == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    with atomic_folder(Path(sys.argv[2])) as partial:
        module.ingest(RawMouse(Path(sys.argv[1])), "new", partial, None, advance)
"""


def test_a_killed_run_is_started_again(built, tiny_config, raw_dataset, tmp_path):
    paths = Paths(tmp_path)
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(_KILLED),
        str(raw_dataset / NEW_MOUSE),
        str(paths.store(NEW_MOUSE)),
    ]
    killed = subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert not paths.store(NEW_MOUSE).exists()
    assert len(list(paths.stores.iterdir())) == 1
    ingest.run(tiny_config, paths, NEW_MOUSE)
    assert list(paths.stores.iterdir()) == [paths.store(NEW_MOUSE)]
    assert _different(built.store(NEW_MOUSE), paths.store(NEW_MOUSE)) == []
