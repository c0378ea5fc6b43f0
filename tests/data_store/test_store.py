"""What a store holds, read by us and by any Zarr tool."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from sensorium.data import layout
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.mice import MODALITIES, STATISTICS
from sensorium.recordings.ingest import ingest
from sensorium.recordings.raw import RawMouse

NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
OLD_MOUSE = "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce"


@pytest.fixture(scope="module", params=[NEW_MOUSE, OLD_MOUSE])
def pair(request, built, raw_dataset) -> tuple[MouseStore, RawMouse]:
    return MouseStore(built.store(request.param)), RawMouse(raw_dataset / request.param)


def test_store_holds_the_valid_frames_of_the_raw_files(pair):
    store, raw = pair
    for trial in range(raw.trials):
        length = int(store.lengths[trial])
        assert length == raw.valid_length(trial, labelled=store.labels[trial])
        for name in ("videos", "behavior", "pupil_center"):
            expected = np.moveaxis(raw.load(name, trial)[..., :length], -1, 0)
            assert np.array_equal(store.view(name, trial), expected.astype(np.float32))
        if store.labels[trial]:
            expected = raw.load("responses", trial)[:, :length].T.astype(np.float32)
            assert np.array_equal(store.responses(trial), expected)
        else:
            assert not store.responses(trial).any()
        assert np.array_equal(store.states(trial)[:, 2:], store.view("pupil_center", trial))


def test_store_describes_the_mouse(pair):
    store, raw = pair
    assert store.tiers.tolist() == raw.tiers
    assert np.array_equal(store.unit_ids, raw.unit_ids)
    assert np.array_equal(store.coordinates, raw.coordinates.astype(np.float32))
    assert (store.trials, store.neurons, store.frame_shape) == (raw.trials, raw.neurons, raw.frame_shape)
    for modality in layout.STATISTICS_MODALITIES:
        for name in STATISTICS:
            expected = np.moveaxis(raw.statistics(modality, name), -1, 0).astype(np.float32)
            assert np.array_equal(store.statistics(modality, name), expected, equal_nan=True)


def test_only_released_trials_of_labelled_tiers_are_labelled(pair):
    store, _ = pair
    expected = {"new": {"train", "oracle"}, "old": set(store.tiers.tolist()) - {"none"}}[store.mouse_set]
    assert {tier for trial, tier in enumerate(store.tiers) if store.labels[trial]} == expected


def test_withheld_responses_take_no_space_and_read_as_zero(pair):
    store, raw = pair
    assert zarr.open_group(str(store.path), mode="r")["responses"].shape[0] == store.labels.sum()
    for trial in np.flatnonzero(~store.labels).tolist():
        assert store.responses(trial).shape == (store.lengths[trial], raw.neurons)
        assert not store.responses(trial).any()


def test_a_store_of_format_1_reads_the_same(pair, tmp_path):
    store, _ = pair
    old = shutil.copytree(store.path, tmp_path / "old.zarr")
    group = zarr.open_group(str(old), mode="r+")
    group.attrs["format_version"] = 1
    padded = [np.pad(r, ((0, store.lengths.max() - len(r)), (0, 0))) for r in map(store.responses, range(store.trials))]
    attributes = dict(group["responses"].attrs)
    del group["responses"]
    group.create_array("responses", data=np.stack(padded), attributes=attributes)
    again = MouseStore(old)
    for trial in range(store.trials):
        assert np.array_equal(again.responses(trial), store.responses(trial))


def test_truth_is_kept_where_it_is_known(pair, raw_dataset, tmp_path):
    store, raw = pair
    expected = np.load(raw_dataset / ".truth" / raw.name / "1.npy")[:, : store.lengths[1]].T
    assert np.array_equal(store.truth(1), expected)
    ingest(raw, store.mouse_set, tmp_path, None, lambda: None)
    assert MouseStore(tmp_path).truth(1) is None


def test_frames_are_cut_out_of_a_trial(stores):
    store = stores[0]
    assert np.array_equal(store.video(3, 5, 9), store.video(3)[5:9])
    assert np.array_equal(store.responses(3, 60), store.responses(3)[60:])
    assert len(store.view("behavior", 3, 7, 7)) == 0
    with pytest.raises(AssertionError):
        store.video(3, 0, int(store.lengths[3]) + 1)


def test_any_zarr_tool_reads_the_store(stores):
    store = stores[0]
    group = zarr.open(str(store.path), mode="r")
    assert group.attrs["mouse"] == store.name
    assert group.attrs["format_version"] == layout.FORMAT_VERSION
    assert group["videos"].dtype == np.uint8
    assert group["videos"].metadata.dimension_names == ("trial", "frame", "row", "column")
    length = int(group["lengths"][2])
    assert np.array_equal(group["videos"][2, :length], store.video(2))
    assert not group["videos"][2, length:].any()
    assert np.array_equal(group["responses"][2, :length], store.responses(2))
    names = group["tiers"].attrs["flag_meanings"].split()
    assert [names[code] for code in group["tiers"][:]] == store.tiers.tolist()
    mean = group["statistics/responses"][group["statistics/responses"].attrs["statistics"].index("mean")]
    assert np.array_equal(mean, store.statistics("responses", "mean"), equal_nan=True)
    assert all(array.attrs["units"] is not None for _, array in group.arrays())


def test_sources_change_with_the_raw_files(stores, copy_raw, tmp_path):
    raw = RawMouse(copy_raw(NEW_MOUSE) / NEW_MOUSE)
    path = raw.file("behavior", 4)
    np.save(path, np.load(path) + 1)
    ingest(raw, "new", tmp_path / "store", None, lambda: None)
    changed = MouseStore(tmp_path / "store").sources
    assert {m for m in MODALITIES if changed[m] != stores[0].sources[m]} == {"behavior"}


def test_stores_travel_between_processes(stores):
    copy = pickle.loads(pickle.dumps(stores[0]))
    assert np.array_equal(copy.video(0), stores[0].video(0))


@pytest.fixture
def chunked(raw_dataset, tmp_path, monkeypatch) -> MouseStore:
    """A store of several chunks an array."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4 * 72 * 18 * 32)
    ingest(RawMouse(raw_dataset / NEW_MOUSE), "new", tmp_path, None, lambda: None)
    return MouseStore(tmp_path)


def test_trials_are_cut_into_chunks(chunked, stores):
    assert len(list((chunked.path / "videos").glob("c.*"))) == -(-chunked.trials // 4)
    for trial in range(chunked.trials):
        assert np.array_equal(chunked.video(trial), stores[0].video(trial))
    chunked.verify()


def test_one_trial_is_read_from_one_file(chunked, stores):
    for path in (chunked.path / "videos").glob("c.*"):
        if path.name != "c.1.0.0.0":
            path.unlink()
    assert np.array_equal(chunked.video(5), stores[0].video(5))


@pytest.mark.parametrize(("trials", "trial_bytes", "rows"), [(750, 9_435_600, 14), (26, 2**20, 26), (3, 2**30, 1)])
def test_chunks_are_even_and_bounded(trials, trial_bytes, rows):
    assert layout.trials_per_chunk(trials, trial_bytes) == rows


def test_recompressed_stores_are_read_through_zarr(stores, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(stores[0].path, copy)
    group = zarr.open_group(str(copy), mode="r+")
    for name in ("videos", "lengths"):
        values, attributes = group[name][...], dict(group[name].attrs)
        del group[name]
        group.create_array(name, data=values, chunks=tuple(max(1, n // 2) for n in values.shape), attributes=attributes)
    store = MouseStore(copy)
    assert np.array_equal(store.video(4, 3, 30), stores[0].video(4, 3, 30))
    assert np.array_equal(store.lengths, stores[0].lengths)
    store.verify()


def test_unknown_statistics_are_refused(stores):
    with pytest.raises(DataError, match=r"statistics/responses: no statistic 'mode'.\nKnown: mean, std"):
        stores[0].statistics("responses", "mode")


def test_the_documented_script_reads_a_store(stores, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "reference" / "store.md").read_text(encoding="utf-8")
    script = text.split("```python\n")[1].split("```")[0]
    path = tmp_path / "data" / "store" / stores[0].path.name
    path.parent.mkdir(parents=True)
    path.symlink_to(stores[0].path)
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = (stores[0].name, stores[0].tiers[3], stores[0].video(3).shape, stores[0].responses(3).shape)
    assert result.stdout.startswith(" ".join(map(str, expected)))
