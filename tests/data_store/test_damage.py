"""Stores that are missing, foreign, old or damaged on disk."""

import json
import shutil

import pytest
import zarr

from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.paths import Paths
from sensorium.stages import verify_stores


@pytest.fixture
def path(stores, tmp_path):
    """A private copy of a store."""
    copy = tmp_path / stores[0].path.name
    shutil.copytree(stores[0].path, copy)
    return copy


def test_a_sound_store_passes(stores):
    for store in stores:
        store.verify()


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(DataError, match=r"mouse.zarr: the store does not exist.\nRun `dvc repro ingest`"):
        MouseStore.open(tmp_path / "mouse.zarr")


def test_a_store_of_another_version_is_refused_with_the_remedy(path):
    zarr.open_group(str(path), mode="r+").attrs["format_version"] = 0
    with pytest.raises(DataError, match=r"store format 0, this version reads format 1") as fault:
        MouseStore.open(path)
    assert "dvc repro ingest" in fault.value.remedy


def test_another_zarr_group_is_no_store(tmp_path):
    zarr.create_group(str(tmp_path / "other"))
    with pytest.raises(DataError, match=r"other: not a mouse's store"):
        MouseStore.open(tmp_path / "other")


@pytest.mark.parametrize("content", [None, "{", '{"node_type": "group"'])
def test_damaged_metadata_is_named(path, content):
    (path / "zarr.json").unlink()
    if content is not None:
        (path / "zarr.json").write_text(content)
    with pytest.raises(DataError, match=r"zarr.json: "):
        MouseStore.open(path)


CHUNKS = ["videos/c.0.0.0.0", "responses/c.0.0.0", "lengths/c.0", "statistics/videos/c.0.0.0.0"]


@pytest.mark.parametrize("name", CHUNKS)
def test_a_flipped_bit_is_found_and_its_chunk_named(path, name):
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 4
    (path / name).write_bytes(content)
    with pytest.raises(DataError, match="the chunk is damaged") as fault:
        MouseStore.open(path).verify()
    assert str(path / name) in fault.value.problem
    assert "dvc checkout" in fault.value.remedy


def test_the_stage_names_each_damaged_store(built, stores, tmp_path, capsys):
    paths = Paths(tmp_path)
    shutil.copytree(built.stores, paths.stores)
    first, second = (paths.store(store.name) for store in stores[:2])
    (first / "videos" / "c.0.0.0.0").unlink()
    shutil.rmtree(second)
    with pytest.raises(DataError) as fault:
        verify_stores.run(paths, [store.name for store in stores])
    assert f"{first}/videos/c.0.0.0.0: the chunk does not exist" in fault.value.problem
    assert f"{second}: the store does not exist" in fault.value.problem
    assert capsys.readouterr().out.splitlines()[2] == f"{stores[2].name}: sound"
    verify_stores.run(paths, [stores[2].name])


def test_damaged_small_arrays_are_found_when_they_are_read(path):
    chunk = path / "lengths" / "c.0"
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DataError, match=r"lengths/c\.0: its values do not match the checksum: the chunk is damaged"):
        MouseStore.open(path).video(0)


def test_a_truncated_chunk_is_named_when_it_is_read(path):
    chunk = path / "responses" / "c.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    store = MouseStore.open(path)
    for read in (lambda: store.responses(0), store.verify):
        with pytest.raises(DataError, match=r"responses/c\.0\.0\.0: .*the chunk is damaged"):
            read()


def test_a_lost_chunk_is_named(path):
    (path / "behavior" / "c.0.0.0").unlink()
    store = MouseStore.open(path)
    with pytest.raises(DataError, match=r"behavior/c\.0\.0\.0: the chunk cannot be read"):
        store.behavior(0)
    with pytest.raises(DataError, match=r"behavior/c\.0\.0\.0: the chunk does not exist"):
        store.verify()


def test_an_emptied_chunk_is_named(path):
    (path / "videos" / "c.0.0.0.0").write_bytes(b"")
    with pytest.raises(DataError, match=r"videos/c\.0\.0\.0\.0: the chunk cannot be read"):
        MouseStore.open(path).video(0)


def test_a_lost_array_is_named(path):
    metadata = json.loads((path / "videos" / "zarr.json").read_text())
    assert metadata["codecs"][-1]["name"] == "crc32c"
    shutil.rmtree(path / "videos")
    with pytest.raises(DataError, match=r"videos/zarr.json: the file does not exist"):
        MouseStore.open(path).video(0)
