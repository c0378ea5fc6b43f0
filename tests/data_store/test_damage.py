"""Stores that are missing, foreign, old or damaged on disk."""

import json
import shutil

import pytest
import zarr

from sensorium.commands import verify
from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.paths import Paths


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
        MouseStore(tmp_path / "mouse.zarr")


def test_a_store_of_another_version_is_refused_with_the_remedy(path):
    zarr.open_group(str(path), mode="r+").attrs["format_version"] = 0
    with pytest.raises(DataError, match=r"store format 0, this version reads the formats 1 and 2") as fault:
        MouseStore(path)
    assert "dvc repro ingest" in fault.value.remedy


def test_another_zarr_group_is_no_store(tmp_path):
    zarr.create_group(str(tmp_path / "other"))
    with pytest.raises(DataError, match=r"other: not a mouse's store"):
        MouseStore(tmp_path / "other")


@pytest.mark.parametrize("content", [None, "{", '{"node_type": "group"'])
def test_damaged_metadata_is_named(path, content):
    (path / "zarr.json").unlink()
    if content is not None:
        (path / "zarr.json").write_text(content)
    with pytest.raises(DataError, match=r"zarr.json: "):
        MouseStore(path)


CHUNKS = ["videos/c.0.0.0.0", "responses/c.0.0.0", "lengths/c.0", "statistics/behavior/c.0.0.0"]


@pytest.mark.parametrize("name", CHUNKS)
def test_a_flipped_bit_is_found_and_its_chunk_named(path, name):
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 4
    (path / name).write_bytes(content)
    with pytest.raises(DataError, match="the chunk is damaged") as fault:
        MouseStore(path).verify()
    assert str(path / name) in fault.value.problem
    assert "dvc repro ingest" in fault.value.remedy


def test_the_stage_names_each_damaged_store(built, stores, tmp_path, capsys):
    paths = Paths(tmp_path)
    shutil.copytree(built.stores, paths.stores)
    first, second = (paths.store(store.name) for store in stores[:2])
    (first / "videos" / "c.0.0.0.0").unlink()
    shutil.rmtree(second)
    with pytest.raises(DataError) as fault:
        verify.verify_stores(paths, [store.name for store in stores])
    assert f"{first}/videos/c.0.0.0.0: the chunk does not exist" in fault.value.problem
    assert f"{second}: the store does not exist" in fault.value.problem
    assert capsys.readouterr().out.splitlines()[2] == f"{stores[2].name}: sound"
    verify.verify_stores(paths, [stores[2].name])


def _change(file, **keys):
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def _forget(file, key):
    metadata = json.loads(file.read_text())
    del metadata[key]
    file.write_text(json.dumps(metadata))


METADATA = [
    ("videos", lambda file: shutil.rmtree(file.parent), "the file does not exist"),
    ("statistics/behavior", lambda file: shutil.rmtree(file.parent), "the file does not exist"),
    ("statistics", lambda file: file.write_text("null"), "no metadata of Zarr"),
    ("statistics", lambda file: _change(file, node_type="array"), "no group of Zarr"),
    (
        "statistics/behavior",
        lambda file: _change(file, attributes={"statistics": ["mean"]}),
        "not the statistics mean, ",
    ),
    ("", lambda file: file.write_text("[]"), "no metadata of Zarr"),
    ("", lambda file: _forget(file, "node_type"), "no group of Zarr"),
    ("behavior", lambda file: file.write_text("{"), "not valid JSON"),
    ("behavior", lambda file: _forget(file, "fill_value"), "no array of Zarr, without fill_value"),
    ("responses", lambda file: _change(file, attributes={}), "no sound attribute minimum"),
    ("lengths", lambda file: _change(file, data_type="uint64"), "type uint64, expected int64"),
    ("unit_ids", lambda file: _change(file, shape=[7]), "7 along the axis neuron, responses has 8"),
    ("coordinates", lambda file: _change(file, shape=[8]), r"shape \(8,\), expected neuron, axis"),
    ("labelled", lambda file: _change(file, shape=["30"]), r"shape \['30'\]"),
]


@pytest.mark.parametrize(("array", "damage", "message"), METADATA)
def test_metadata_that_do_not_fit_together_are_named(stores, tmp_path, array, damage, message):
    paths, name = Paths(tmp_path), stores[0].name
    shutil.copytree(stores[0].path, paths.store(name))
    verify.verify_stores(paths, [name])
    file = paths.store(name) / array / "zarr.json"
    damage(file)
    with pytest.raises(DataError, match=rf"{file}: {message}") as fault:
        verify.verify_stores(paths, [name])
    assert "dvc repro ingest" in fault.value.remedy


NONSENSE = [
    ("", {}),
    ("", []),
    ("", {"zarr_format": 3, "node_type": "group", "attributes": {}}),
    ("videos", {}),
    ("videos", "text"),
    ("responses", {"zarr_format": 3, "node_type": "group", "attributes": {}}),
    ("statistics/behavior", {"a": 1}),
]


@pytest.mark.parametrize(("array", "content"), NONSENSE)
def test_metadata_of_other_content_are_one_clear_error(path, array, content):
    (path / array / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"zarr\.json: .* damaged|not a mouse's store") as fault:
        MouseStore(path)
    assert "dvc repro ingest" in fault.value.remedy


@pytest.mark.parametrize("key", ["chunk_grid", "chunk_key_encoding", "codecs", "data_type"])
@pytest.mark.parametrize("value", [None, 3, "text", [], [3], {}, {"name": "other", "configuration": None}])
def test_an_array_described_by_nonsense_is_one_clear_error(path, key, value):
    _change(path / "videos" / "zarr.json", **{key: value})
    with pytest.raises(DataError, match=r"videos"):
        MouseStore(path).video(0)


def test_a_tier_without_a_name_is_named(path):
    _change(path / "tiers" / "zarr.json", attributes={"flag_meanings": "train"})
    with pytest.raises(DataError, match=r"tiers/zarr\.json: flag_meanings names 1 tiers"):
        _ = MouseStore(path).tiers


def test_a_store_of_another_mouse_is_named(stores, tmp_path):
    paths, name = Paths(tmp_path), stores[1].name
    shutil.copytree(stores[0].path, paths.store(name))
    with pytest.raises(DataError, match=f"{name}.zarr/zarr.json: of the mouse {stores[0].name}"):
        verify.verify_stores(paths, [name])


def test_the_stage_tells_an_older_version(stores, tmp_path):
    paths, name = Paths(tmp_path), stores[0].name
    shutil.copytree(stores[0].path, paths.store(name))
    _change(paths.store(name) / "zarr.json", attributes={"format": "sensorium-mouse", "format_version": 0})
    with pytest.raises(DataError, match="store format 0, this version reads the formats 1 and 2"):
        verify.verify_stores(paths, [name])


def test_damaged_small_arrays_are_found_when_they_are_read(path):
    chunk = path / "lengths" / "c.0"
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DataError, match=r"lengths/c\.0: its values do not match the checksum: the chunk is damaged"):
        MouseStore(path).video(0)


def test_a_truncated_chunk_is_named_when_it_is_read(path):
    chunk = path / "responses" / "c.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    store = MouseStore(path)
    for read in (lambda: store.responses(0), store.verify):
        with pytest.raises(DataError, match=r"responses/c\.0\.0\.0: .*the chunk is damaged"):
            read()


def test_a_lost_chunk_is_named(path):
    (path / "behavior" / "c.0.0.0").unlink()
    store = MouseStore(path)
    with pytest.raises(DataError, match=r"behavior/c\.0\.0\.0: the chunk cannot be read"):
        store.view("behavior", 0)
    with pytest.raises(DataError, match=r"behavior/c\.0\.0\.0: the chunk does not exist"):
        store.verify()


def test_an_emptied_chunk_is_named(path):
    (path / "videos" / "c.0.0.0.0").write_bytes(b"")
    with pytest.raises(DataError, match=r"videos/c\.0\.0\.0\.0: the chunk cannot be read"):
        MouseStore(path).video(0)


def test_a_lost_array_is_named(path):
    metadata = json.loads((path / "videos" / "zarr.json").read_text())
    assert metadata["codecs"][-1]["name"] == "crc32c"
    shutil.rmtree(path / "videos")
    with pytest.raises(DataError, match=r"videos/zarr.json: the file does not exist"):
        MouseStore(path).video(0)
