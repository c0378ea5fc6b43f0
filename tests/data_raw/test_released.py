"""Released test responses replace zeros and nothing else."""

import json
import shutil
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sensorium.commands import responses
from sensorium.errors import ConfigError, DataError, TransferError
from sensorium.files import sha256, write_json
from sensorium.mice import TEST_TIERS
from sensorium.paths import Paths
from sensorium.recordings.download.mouse import MANIFEST, check_manifest, read_manifest
from sensorium.recordings.download.released import HUB, fill_in, from_folder, from_hub
from sensorium.recordings.raw import RawMouse

FIXTURE = Path(__file__).parents[1] / "fixtures" / "released_v3.zip"


@pytest.fixture
def withheld(copy_raw, tiny_config):
    """A private old mouse whose test responses are zeros, as in its zip, and the responses themselves."""
    name = list(tiny_config.dataset.mice)[-1]
    mouse = RawMouse(copy_raw(name) / name)
    truth = {}
    for trial, tier in enumerate(mouse.tiers):
        if tier in TEST_TIERS:
            truth[trial] = mouse.load("responses", trial)
            np.save(mouse.file("responses", trial), np.zeros_like(truth[trial]))
    return mouse, truth


@pytest.fixture
def folder(withheld, tmp_path):
    """The responses as files, without padding."""
    mouse, truth = withheld
    target = tmp_path / "released" / mouse.name
    target.mkdir(parents=True)
    for trial, array in truth.items():
        np.save(target / f"{trial}.npy", array[:, ~np.isnan(array[0])].astype(np.float32))
    return target.parent


def contents(mouse: RawMouse) -> dict[str, str]:
    return {str(path.relative_to(mouse.folder.parent)): sha256(path) for path in mouse.folder.rglob("*.npy")}


def test_files_replace_the_zeros(withheld, folder):
    mouse, truth = withheld
    before = contents(mouse)
    assert fill_in(mouse, from_folder(folder, mouse)) == len(truth)
    for trial, array in truth.items():
        np.testing.assert_allclose(mouse.load("responses", trial), array, rtol=1e-6)
    changed = {name for name, digest in contents(mouse).items() if digest != before[name]}
    assert changed == {f"{mouse.name}/data/responses/{trial}.npy" for trial in truth}
    assert fill_in(mouse, from_folder(folder, mouse)) == 0
    assert [path.name for path in mouse.folder.parent.iterdir() if "partial" in path.name] == []


def test_a_killed_run_is_finished_by_the_next(withheld, folder):
    mouse, truth = withheld
    others = sorted(truth)[1:]
    fill_in(mouse, from_folder(folder, mouse))
    for trial in others:
        np.save(mouse.file("responses", trial), np.zeros_like(truth[trial]))
    assert fill_in(mouse, from_folder(folder, mouse)) == len(others)


def test_the_manifest_of_a_download_follows(withheld, folder):
    mouse, _ = withheld
    files = list(mouse.folder.rglob("*.npy"))
    entries = {str(p.relative_to(mouse.folder)): {"size": p.stat().st_size, "sha256": sha256(p)} for p in files}
    write_json(mouse.folder / MANIFEST, {"url": "u", "zip": {"size": 1, "sha256": "x"}, "files": entries})
    fill_in(mouse, from_folder(folder, mouse))
    check_manifest(mouse.folder, read_manifest(mouse.folder), quick=False, on_bytes=lambda _: None)
    assert set(json.loads((mouse.folder / MANIFEST).read_text())["files"]) == set(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "the file does not exist"),
        (lambda path: np.save(path, np.load(path)[:-1]), r"shape \(8, \d+\), expected 9 neurons"),
        (lambda path: np.save(path, np.zeros((9, 400))), "up to 80 frames"),
        (lambda path: np.save(path, np.load(path)[0]), "expected 9 neurons"),
        (lambda path: np.save(path, np.full((9, 60), np.inf)), "NaN or infinite"),
        (lambda path: np.save(path, np.full((9, 60), np.nan)), "NaN or infinite"),
    ],
)
def test_unsound_responses_change_nothing(withheld, folder, change, message):
    mouse, truth = withheld
    change(folder / mouse.name / f"{max(truth)}.npy")
    before = contents(mouse)
    with pytest.raises(DataError, match=message):
        fill_in(mouse, from_folder(folder, mouse))
    assert contents(mouse) == before
    assert [path.name for path in mouse.folder.parent.iterdir() if "partial" in path.name] == []


def test_responses_that_are_there_are_never_replaced(withheld, folder):
    mouse, truth = withheld
    trial = min(truth)
    np.save(mouse.file("responses", trial), truth[trial] + 1)
    before = contents(mouse)
    with pytest.raises(DataError, match=f"{trial}.npy: holds other responses"):
        fill_in(mouse, from_folder(folder, mouse))
    assert contents(mouse) == before


def test_trials_of_no_test_tier_or_too_few_are_refused(withheld):
    mouse, truth = withheld
    with pytest.raises(DataError, match=f"no released responses for {len(truth)} test trials"):
        fill_in(mouse, iter([]))
    for trial in (mouse.tiers.index("train"), 10_000):
        with pytest.raises(DataError, match=f"trial {trial}, which is in no test tier"):
            fill_in(mouse, iter([(trial, np.zeros((9, 60)))]))


class Hub(types.ModuleType):
    """Stands in for the optional library: one data set a mouse and tier."""

    def __init__(self, mouse, truth):
        super().__init__("deeplake")
        self.sources = {HUB.format(mouse=mouse.name, tier=tier): tier for tier in TEST_TIERS}
        self.mouse, self.truth = mouse, truth

    def query(self, text):
        source = text.split('"')[1]
        if source not in self.sources:
            raise RuntimeError(f"{source} not found")
        tier = self.sources[source]
        return [
            {"id": np.array([trial]), "responses": array}
            for trial, array in self.truth.items()
            if self.mouse.tiers[trial] == tier
        ]


def test_the_hub_is_asked_for_every_test_tier(withheld, monkeypatch):
    mouse, truth = withheld
    hub = Hub(mouse, truth)
    monkeypatch.setitem(sys.modules, "deeplake", hub)
    assert fill_in(mouse, from_hub(mouse)) == len(truth)
    for trial, array in truth.items():
        np.testing.assert_array_equal(mouse.load("responses", trial), array)
    hub.sources.clear()
    with pytest.raises(TransferError, match=r"hub://sinzlab/Sensorium_2023_.*: cannot be read .* not found"):
        fill_in(mouse, from_hub(mouse))


def test_a_missing_library_is_named(withheld, monkeypatch):
    monkeypatch.setitem(sys.modules, "deeplake", None)
    with pytest.raises(ConfigError, match=r"deeplake: .* not installed") as fault:
        list(from_hub(withheld[0]))
    assert "--from FOLDER" in fault.value.remedy


def test_the_library_reads_the_hub_s_format(withheld, tmp_path):
    """A data set of the hub's format, three trials of seven neurons (needs the extra `responses`)."""
    pytest.importorskip("deeplake")
    with zipfile.ZipFile(FIXTURE) as file:
        file.extractall(tmp_path / "hub")
    rows = dict(from_hub(withheld[0], str(tmp_path / "hub" / "ds3")))
    assert {trial: array.shape for trial, array in rows.items()} == {5: (7, 25), 9: (7, 29), 2: (7, 22)}
    for trial, array in rows.items():
        np.testing.assert_array_equal(array, np.random.default_rng(trial).random(array.shape))


def test_the_verb_takes_old_mice_and_files(withheld, folder, tiny_config, tmp_path, capsys):
    mouse, truth = withheld
    dataset = tiny_config.dataset.model_copy(update={"raw": str(mouse.folder.parent)})
    config = tiny_config.model_copy(update={"dataset": dataset})
    (mouse.folder.parent / f".{mouse.name}.a_killed.partial").mkdir()
    responses.run(config, Paths(tmp_path), None, folder)
    assert sorted(path.name for path in mouse.folder.parent.iterdir()) == [".truth", mouse.name]
    assert f"{len(truth)} trials filled in" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="not an old mouse"):
        responses.run(config, Paths(tmp_path), next(iter(config.dataset.mice)), folder)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="the folder does not exist"):
        responses.run(config, Paths(tmp_path), mouse.name, folder)
