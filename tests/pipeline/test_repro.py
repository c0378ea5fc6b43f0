"""The whole graph under `dvc repro`, on three tiny mice."""

import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from tiny import MICE, NEW_MOUSE, derived, tiny_tree
from tiny_project import Project

from sensorium.mice import SUBMISSION_NAMES, TEST_TIERS, TRACKS

pytestmark = pytest.mark.timeout(900)

PAIR = "distillation_001,true_batch_001"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("pipeline") / "project", tiny_tree())
    made.repro()
    return made


def test_everything_is_versioned_and_nothing_left_to_do(project):
    assert "up to date" in project.dvc("status").stdout
    assert "Running stage" not in project.repro().stdout


def test_a_colleague_pulls_and_has_nothing_to_do(project, tmp_path):
    """Without the recordings, which DVC does not carry."""
    assert project.dvc("remote", "add", "-d", "-f", "shared", str(tmp_path / "shared")).returncode == 0
    assert project.dvc("push").returncode == 0
    colleague = Project(tmp_path / "mes données" / "colleague", tiny_tree())
    shutil.copy(project.folder / "dvc.lock", colleague.folder)
    shutil.copy(project.folder / ".dvc" / "config", colleague.folder / ".dvc")
    assert colleague.dvc("pull").returncode == 0
    assert "up to date" in colleague.dvc("status").stdout
    assert "Running stage" not in colleague.repro().stdout
    assert not (colleague.folder / "data" / "sensorium_all_2023").exists()


def test_every_split_of_the_new_mice_is_predicted(project):
    for split in TEST_TIERS:
        folder = project.folder / "data" / "predictions" / PAIR / split
        predicted = sorted(path.name for path in folder.iterdir() if path.is_dir())
        assert predicted == sorted(mouse for mouse, kind in MICE.items() if kind == "new")
        assert all(np.isfinite(np.load(file)).all() for file in folder.glob("*/*.npy"))


def test_submissions_have_the_competitions_names(project):
    for track, splits in TRACKS.items():
        folder = project.folder / "data" / "submissions" / track
        names = [f"{SUBMISSION_NAMES[split]}.parquet.brotli" for split in splits]
        with zipfile.ZipFile(folder / f"{track}.zip") as bundle:
            assert sorted(bundle.namelist()) == sorted(names)
        for name in names:
            assert list(pd.read_parquet(folder / name)) == ["mouse", "trial_indices", "prediction", "neuron_ids"]


def test_scores_are_metrics_of_dvc(project):
    shown = project.dvc("metrics", "show", "--json")
    assert shown.returncode == 0, shown.stderr
    for word in ("true_batch_001", "distillation_001", "ensemble", "ceiling"):
        assert word in shown.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_empty_cache_gives_the_same_bits(project, tmp_path):
    again = Project(tmp_path / "again", tiny_tree())
    again.repro()
    assert again.outputs() == project.outputs()


def snapshot(folder):
    """Inode, time and content of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_recordings_placed_by_hand_stay_as_they_are(tmp_path, copy_raw):
    project = Project(tmp_path / "project", tiny_tree())
    raw = copy_raw(to=project.folder / "data" / "sensorium_all_2023")
    for mouse in MICE:
        (raw / mouse / "meta" / "synthetic.json").unlink()
        (raw / mouse / "notes.txt").write_text("mine")
    linked = (raw / NEW_MOUSE).rename(tmp_path / "other disk")
    (raw / NEW_MOUSE).symlink_to(linked)
    before = snapshot(raw), snapshot(linked)
    project.repro(*(f"ingest@{mouse}" for mouse in MICE))
    assert (snapshot(raw), snapshot(linked)) == before
    assert project.dvc("repro", "--force", f"ingest@{NEW_MOUSE}").returncode == 0
    assert (snapshot(raw), snapshot(linked)) == before
    assert (raw / NEW_MOUSE).is_symlink()


def test_a_damaged_recording_stops_its_stage_alone_and_work_goes_on_after_the_repair(tmp_path, copy_raw):
    tree = tiny_tree()
    tree["dataset"]["get"] = "verify"
    project = Project(tmp_path / "project", derived(tree))
    raw = copy_raw(to=project.folder / "data" / "sensorium_all_2023")
    victim = raw / NEW_MOUSE / "data" / "responses" / "0.npy"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-8])
    failed = project.dvc("repro", "--keep-going", *(f"ingest@{mouse}" for mouse in MICE))
    told = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert str(victim) in told
    assert "Traceback" not in told
    stores = project.folder / "data" / "store"
    assert sorted(path.stem for path in stores.iterdir()) == sorted(mouse for mouse in MICE if mouse != NEW_MOUSE)
    victim.write_bytes(whole)
    repaired = project.repro(*(f"ingest@{mouse}" for mouse in MICE)).stdout
    assert repaired.count("Running stage 'ingest@") == 1
    assert (stores / f"{NEW_MOUSE}.zarr").is_dir()
