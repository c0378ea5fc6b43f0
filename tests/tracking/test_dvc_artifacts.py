"""A registered version names its weights by digest, and loads wherever the database and a DVC remote can be reached."""

import hashlib
import shutil
from functools import partial

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.server import app, handlers
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

import sensorium
from sensorium.errors import TrackingError
from sensorium.registry.manifest import PAIR, TEACHER
from sensorium.registry.model_registry import model_id
from sensorium.stages import register

CHAMPION = f"models:/{PAIR}@champion"
WEIGHTS = "data/model/fold_1/model.safetensors"


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory, fresh_database, new_project):
    """A project with a champion, and a remote with its weights."""
    root, remote = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
        shutil.copyfile(fresh_database, root / "mlflow.db")
        project = new_project(root)
        for name in ("true_batch_001", "distillation_001"):
            project.train(name)
        project.score()
        register.run(project.config, project.paths)
        project.store.client().set_registered_model_alias(PAIR, "champion", "1")
    shutil.copytree(root / ".dvc" / "cache" / "files", remote / "files")
    return project, remote


@pytest.fixture
def elsewhere(bare_project, trained_here, monkeypatch):
    """Another machine: settings, the database, and the address of the remote."""
    project, remote = trained_here
    root = bare_project.paths.root
    mine = shutil.copytree(remote, root.parent / f"{root.name}-remote")
    shutil.copyfile(project.paths.root / "mlflow.db", root / "mlflow.db")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {mine}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    return bare_project, mine


def stored(project, remote):
    """The teacher's weights of fold 1, in the remote."""
    digest = hashlib.md5((project.paths.fold("true_batch_001", 1) / "model.safetensors").read_bytes()).hexdigest()
    return remote / "files" / "md5" / digest[:2] / digest[2:]


def predicted(model, mouse):
    return model.predict(np.full((40, 7, 8), 100.0), mouse, np.zeros((2, 40)), np.zeros((2, 40))).values


def answer(model, mouse):
    states = {name: np.zeros((2, 40)) for name in ("behavior", "pupil_center")}
    return model.predict({"video": np.full((7, 8, 40), 100.0), **states}, params={"mouse": mouse})


def test_the_champion_loads_with_nothing_but_the_database_and_the_remote(elsewhere, trained_here):
    project, _ = elsewhere
    mouse = next(iter(project.config.dataset.mice))
    served = answer(mlflow.pyfunc.load_model(CHAMPION), mouse)
    loaded = predicted(sensorium.load(CHAMPION), mouse)
    assert np.array_equal(served, loaded)
    folders = [trained_here[0].paths.experiment(name) for name in ("true_batch_001", "distillation_001")]
    means = [predicted(sensorium.load(folder), mouse) for folder in folders]
    np.testing.assert_allclose(served, np.mean(means, axis=0), rtol=1e-5)
    assert answer(mlflow.pyfunc.load_model(f"models:/{TEACHER}/1"), mouse).shape == served.shape
    assert not list(project.paths.root.glob("mlartifacts/**/*"))


def test_outside_of_a_project_the_users_dvc_settings_hold(elsewhere, tmp_path_factory, monkeypatch):
    project, _ = elsewhere
    desk, settings = tmp_path_factory.mktemp("desk"), tmp_path_factory.mktemp("settings")
    shutil.copyfile(project.paths.root / "mlflow.db", desk / "mlflow.db")
    shutil.copyfile(project.paths.root / ".dvc" / "config", settings / "config")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(settings))
    monkeypatch.setenv("XDG_CACHE_HOME", str(desk / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{desk}/mlflow.db")
    monkeypatch.chdir(desk)
    assert answer(mlflow.pyfunc.load_model(CHAMPION), next(iter(project.config.dataset.mice))).size


def test_what_no_remote_has_is_told_in_one_sentence(elsewhere, trained_here):
    _, remote = elsewhere
    stored(trained_here[0], remote).unlink()
    problem = r"fold_1/model\.safetensors: neither in DVC's cache at .* nor in remote 'storage' \(not there\)\."
    with pytest.raises(TrackingError, match=problem) as told:
        sensorium.load(CHAMPION)
    assert "`dvc push`" in told.value.remedy
    with pytest.raises(MlflowException, match=problem):
        mlflow.pyfunc.load_model(f"models:/{TEACHER}/1")


def test_damaged_objects_are_refused_and_the_next_remote_is_asked(elsewhere, trained_here):
    project, remote = elsewhere
    damaged = stored(trained_here[0], remote)
    damaged.chmod(0o644)
    damaged.write_bytes(b"nonsense")
    with pytest.raises(TrackingError, match=r"remote 'storage' \(.* is damaged\)"):
        sensorium.load(CHAMPION)
    cache = project.paths.root / ".dvc" / "cache" / "files" / "md5"
    assert not (cache / damaged.parent.name / damaged.name).exists()
    with (project.paths.root / ".dvc" / "config").open("a") as config:
        config.write(f"['remote \"another\"']\n    url = {trained_here[1]}\n['remote \"gone\"']\n    url = /nowhere\n")
    assert sensorium.load(CHAMPION)


def test_mlflows_pages_show_and_download_the_files(elsewhere, trained_here, monkeypatch):
    project, _ = elsewhere
    client = project.store.client()
    model = model_id(client.get_model_version(TEACHER, "1").source)
    monkeypatch.setattr(handlers, "_tracking_store", client._tracking_client.store)
    monkeypatch.setattr(handlers, "_model_registry_store", client._get_registry_client().store)
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", project.store.uri)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    get, place = partial(app.test_client().get, buffered=True), f"/ajax-api/2.0/mlflow/logged-models/{model}/artifacts"
    listed = get(f"{place}/directories").get_json()["files"]
    assert {entry["path"]: entry["is_dir"] for entry in listed}.items() >= {"MLmodel": False, "data": True}.items()
    listed = get(f"{place}/directories?artifact_directory_path=data/model/fold_1").get_json()["files"]
    weights = (trained_here[0].paths.fold("true_batch_001", 1) / "model.safetensors").read_bytes()
    assert {entry["path"]: int(entry["file_size"]) for entry in listed}[WEIGHTS] == len(weights)
    assert get(f"{place}/files?artifact_file_path={WEIGHTS}").data == weights
    found = get(f"/model-versions/get-artifact?name={TEACHER}&version=1&path=MLmodel")
    assert b"sensorium.registry.serving" in found.data
    assert get(f"{place}/files?artifact_file_path=nothing").status_code == 404


def test_mlflow_neither_deletes_nor_changes_what_a_version_needs(elsewhere):
    project, remote = elsewhere
    before = sorted(remote.rglob("*"))
    client = project.store.client()
    source = client.get_model_version(TEACHER, "1").source
    repository = get_artifact_repository(source)
    client.delete_logged_model(model_id(source))
    repository.delete_artifacts()  # which `mlflow gc` calls
    with pytest.raises(MlflowException, match="does not change"):
        repository.log_artifact("params.yaml")
    assert sensorium.load(CHAMPION)
    assert sorted(remote.rglob("*")) == before
