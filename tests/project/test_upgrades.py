"""A project of an earlier version opens in this one, and a database of an earlier MLflow is refused with the remedy."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic import command, script
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from sqlalchemy import create_engine, text
from tiny import NEW_MOUSE, derived, tiny_tree

from sensorium.commands import results
from sensorium.config import load, parse
from sensorium.data.store import MouseStore
from sensorium.doctor.finding import Project
from sensorium.doctor.tracking import check_registry
from sensorium.errors import ConfigError, TrackingError
from sensorium.model import checkpoint
from sensorium.paths import Paths
from sensorium.registry.pair import load_pair
from sensorium.registry.promotion import promote
from sensorium.stages import evaluate, predict, register
from sensorium.tracking.store import TrackingStore

FIXTURE = Path(__file__).parents[1] / "fixtures" / "project_format_1.zip"
"""What the version of 22 November 2026 (stores of format 1) made of one simulated mouse, in /home/user/sensorium."""
_SYNTHETIC = {
    "padded_frames": 64,
    "valid_frames": [56, 60],
    "neurons": {NEW_MOUSE: 4},
    "train_trials": 6,
    "repeated_trials": 2,
    "repeats": 2,
    "unusable_trials": 1,
    "shared_videos": 1,
}


@pytest.fixture
def former(tmp_path, monkeypatch):
    """The project of an earlier version, in another folder than it was made in."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    return Paths(tmp_path)


@pytest.fixture
def settings():
    """The settings that it was made with, as this version writes them."""
    tree = tiny_tree()
    tree["dataset"]["mice"] = {NEW_MOUSE: "new"}
    tree["synthetic"] |= _SYNTHETIC
    tree["folds"] |= {"count": 2, "train": {"fold_0": 0}}
    tree["evaluation"] = {"first_frame": 5, "frames": 40}
    tree.pop("pipeline", None)
    return parse(derived(tree), "params.yaml")


def test_settings_of_an_earlier_version_are_refused_by_key(former):
    with pytest.raises(ConfigError, match=r"params\.yaml: synthetic\.seed: Field required"):
        load(former.root / "params.yaml")


def test_everything_of_an_earlier_version_is_read(former, settings, capsys):
    store = MouseStore(former.store(NEW_MOUSE))
    assert (store.name, store.neurons) == (NEW_MOUSE, 4)
    trained = checkpoint.load(former.fold("true_batch_001", 0))
    assert dict(trained.info.mice) == {NEW_MOUSE: 4}
    results.run(settings, former)
    assert "0.068" in capsys.readouterr().out
    for experiment in ("true_batch_001", "distillation_001"):
        predict.run(settings, former, experiment, "folds")
    evaluate.run(settings, former)
    pair = load_pair(former.pair_pin, former)
    assert [folder.name for folders in pair.values() for folder in folders] == ["fold_0", "fold_0"]
    assert all(folder.is_relative_to(former.root) for folders in pair.values() for folder in folders)
    pin = former.pair_pin.read_bytes()
    register.run(settings, former)
    assert former.pair_pin.read_bytes() == pin, "the same content is the same version"
    assert promote(former).version == 1


def database_at(folder, *, earlier):
    """MLflow's tables as they are, or as they were before the last change of their schema."""
    uri = f"sqlite:///{folder}/mlflow.db"
    engine = create_engine(uri)
    InitialBase.metadata.create_all(engine)
    alembic = _get_alembic_config(uri)
    head = script.ScriptDirectory.from_config(alembic).get_revision("head")
    command.upgrade(alembic, head.down_revision if earlier else head.revision)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO experiments (name, lifecycle_stage) VALUES ('kept', 'active')"))
    return engine


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return TrackingStore.of(Paths(tmp_path))


def test_a_database_that_lacks_tables_of_this_mlflow_is_upgraded_by_it(store, tmp_path):
    database_at(tmp_path, earlier=True).dispose()
    assert store.client().get_experiment_by_name("kept") is not None


def test_the_command_that_doctor_names_for_tables_of_an_earlier_mlflow_upgrades_them(store, tmp_path):
    engine = database_at(tmp_path, earlier=True)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO runs (run_uuid, status) VALUES ('a', 'FINISHED')"))
    engine.dispose()
    (finding,) = check_registry(Project(Paths(tmp_path)))
    (typed,) = re.findall(r"`(mlflow [^`]*)`", finding.remedy)
    subprocess.run([sys.executable, "-m", *typed.split()], check=True)
    assert list(check_registry(Project(Paths(tmp_path)))) == []


def test_tables_of_a_newer_mlflow_are_refused(store, tmp_path):
    engine = database_at(tmp_path, earlier=False)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'another'"))
    engine.dispose()
    with pytest.raises(TrackingError, match=r"revision another is not known to MLflow .*: a newer one made it"):
        store.client()
