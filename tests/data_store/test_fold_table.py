"""Folds of labelled trials and the leak that exact matching leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sensorium.config import Config, WindowConfig
from sensorium.data.folds import UNLABELLED, Folds
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.paths import Paths
from sensorium.recordings.folds import write_folds
from sensorium.recordings.phash import video_hash
from sensorium.recordings.raw import RawMouse
from sensorium.stages import folds as stage
from sensorium.stages import ingest

NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
OLD_MOUSE = "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce"


def _labels(store: MouseStore) -> np.ndarray:
    return np.array([store.labels[trial] for trial in range(store.trials)])


def test_fold_is_the_hash_modulo_the_count(stores, table, tiny_config):
    for store in stores:
        expected = [
            video_hash(store.video(trial)) % tiny_config.folds.count if store.labels[trial] else UNLABELLED
            for trial in range(store.trials)
        ]
        assert table.of(store.name).tolist() == expected


def test_repeats_share_a_group_and_other_videos_do_not(stores, table):
    store = stores[-1]
    groups = table.group(store.name)
    assert not groups[~_labels(store)].any()
    oracle = np.flatnonzero(store.tiers == "oracle")
    for first in oracle:
        for second in oracle:
            low, high = (store.video(trial).astype(int)[:68] for trial in (first, second))
            same = (np.abs(low - high) <= 1).all(axis=(1, 2)).mean() > 0.85
            assert (groups[first] == groups[second]) == same


def test_equal_stores_give_equal_bytes(stores, built, tmp_path):
    write_folds(stores, 3, "exact", tmp_path / "folds")
    for path in built.folds.iterdir():
        assert path.read_bytes() == (tmp_path / "folds" / path.name).read_bytes()


def _flip_a_bit(raw: Path, count: int) -> tuple[int, int]:
    """Make two training trials near-identical but of hashes in different folds; returns them."""
    mouse = RawMouse(raw / NEW_MOUSE)
    first, second = np.flatnonzero(np.array(mouse.tiers) == "train")[:2].tolist()
    video = mouse.load("videos", first)
    length = mouse.valid_length(first, labelled=True)
    fold = video_hash(video[..., :length].transpose(2, 0, 1)) % count
    rng = np.random.default_rng(0)
    for _ in range(200):
        repeat = np.clip(video + rng.integers(-1, 2, video.shape), 0, 255)
        if video_hash(repeat[..., :length].transpose(2, 0, 1)) % count != fold:
            np.save(mouse.file("videos", second), repeat)
            for modality in ("responses", "behavior", "pupil_center"):
                np.save(mouse.file(modality, second), mouse.load(modality, first))
            return first, second
    raise AssertionError("no jitter moved the hash")


@pytest.fixture
def leaky(copy_raw, with_raw, tmp_path) -> tuple[Config, Paths, tuple[int, int]]:
    """A mouse with two near-identical trials whose hashes fall into different folds."""
    raw = copy_raw(NEW_MOUSE)
    trials = _flip_a_bit(raw, 2)
    config = with_raw(raw)
    config = config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"mice": {NEW_MOUSE: "new"}}),
            "folds": config.folds.model_copy(update={"count": 2}),
        }
    )
    paths = Paths(tmp_path / "project")
    ingest.run(config, paths, NEW_MOUSE)
    return config, paths, trials


@pytest.mark.parametrize(("grouping", "apart"), [("exact", True), ("near", False)])
def test_near_grouping_keeps_repeats_together_that_exact_hashes_split(leaky, grouping, apart):
    config, paths, (first, second) = leaky
    config = config.model_copy(update={"folds": config.folds.model_copy(update={"grouping": grouping})})
    stage.run(config, paths)
    table = Folds.load(paths.folds)
    assert table.group(NEW_MOUSE)[first] == table.group(NEW_MOUSE)[second]
    assert (table.of(NEW_MOUSE)[first] != table.of(NEW_MOUSE)[second]) == apart
    report = json.loads((paths.folds / "report.json").read_text())
    assert report["grouping"] == grouping
    assert report["near_identical_pairs_in_different_folds"]["exact"] >= 1
    assert report["near_identical_pairs_in_different_folds"]["near"] == 0
    assert report["videos"]["exact"] > report["videos"]["near"]
    expected = np.bincount(table.of(NEW_MOUSE)[table.of(NEW_MOUSE) >= 0], minlength=2)
    assert report["trials_by_fold"][NEW_MOUSE] == expected.tolist()


def test_a_table_that_was_changed_is_refused(stores, tmp_path):
    write_folds(stores, 2, "exact", tmp_path / "folds")
    path = tmp_path / "folds" / "folds.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:-1] + ("0" if lines[1].endswith("1") else "1")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"folds\.csv: changed since it was written, or damaged"):
        Folds.load(tmp_path / "folds")


def test_a_mouse_without_a_trial_in_a_fold_is_named(stores, tmp_path):
    with pytest.raises(DataError, match=r"dynamic\S+: no labelled trial in fold \d+") as fault:
        write_folds(stores, 40, "exact", tmp_path / "folds")
    assert "folds.count" in fault.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_mouse_without_labelled_trials_is_named(copy_raw, with_raw, tmp_path):
    raw = copy_raw(NEW_MOUSE)
    mouse = RawMouse(raw / NEW_MOUSE)
    for trial in range(mouse.trials):
        responses = mouse.load("responses", trial)
        np.save(mouse.file("responses", trial), np.where(np.isnan(responses), np.nan, 0))
    paths = Paths(tmp_path)
    ingest.run(with_raw(raw), paths, NEW_MOUSE)
    with pytest.raises(DataError, match=r"zarr: not one labelled trial"):
        write_folds([MouseStore(paths.store(NEW_MOUSE))], 2, "exact", tmp_path / "folds")


def test_trials_that_could_not_be_predicted_are_refused_before_training(built, tiny_config, stores, tmp_path):
    paths = Paths(tmp_path)
    paths.stores.parent.mkdir()
    paths.stores.symlink_to(built.stores)
    shortest = min(int(store.lengths.min()) for store in stores)
    fitting = tiny_config.model_copy(update={"window": WindowConfig(frames=shortest, step=1)})
    stage.run(fitting, paths)
    shutil.rmtree(paths.folds)
    longer = tiny_config.model_copy(update={"window": WindowConfig(frames=shortest + 1, step=1)})
    words = rf"trial \d+ has {shortest} frames, the window needs {shortest + 1} to predict each of them"
    with pytest.raises(DataError, match=words) as fault:
        stage.run(longer, paths)
    assert "Give such trials the tier `none`" in fault.value.remedy
    assert not paths.folds.exists()


def test_a_missing_store_stops_the_stage(tiny_config, tmp_path):
    with pytest.raises(DataError, match=r"the store does not exist"):
        stage.run(tiny_config, Paths(tmp_path))
    assert not Paths(tmp_path).folds.exists()


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"folds.csv: the file does not exist.\nRun `dvc repro folds`"):
        Folds.load(tmp_path)


def test_a_folder_in_the_place_of_the_table_is_named(tmp_path):
    (tmp_path / "folds.csv").mkdir()
    with pytest.raises(DataError, match=r"folds.csv: a folder, expected a file.\nRun `dvc repro folds`"):
        Folds.load(tmp_path)


@pytest.mark.parametrize(
    "content", ["mouse,trial\nm,0\n", "mouse,trial,tier,hash,group,fold\nm,0,train,xyz,0,1\n", "\xff\xfe"]
)
def test_a_damaged_table_is_named(tmp_path, content):
    (tmp_path / "folds.csv").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"folds.csv: no table of mouse, trial"):
        Folds.load(tmp_path)


def test_an_unknown_mouse_is_named(table):
    with pytest.raises(DataError, match=r"folds: mouse dynamic0 is not in the table"):
        table.of("dynamic0")
