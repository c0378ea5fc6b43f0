"""What no commit, tag or champion needs is removed, and nothing else."""

import hashlib
import json
import sqlite3
import subprocess
from contextlib import closing

import pytest
import yaml

import sensorium
from sensorium.commands import gc
from sensorium.errors import PipelineError
from sensorium.registry.manifest import PAIR, STUDENT, TEACHER
from sensorium.registry.pair import load_pair
from sensorium.registry.promotion import PREVIOUS, rollback
from sensorium.stages import register
from sensorium.tracking.dvc_files import FILES, VersionFiles


def git(root, *arguments):
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cached(project, content, suffix=""):
    """An object in DVC's cache; returns its digest."""
    digest = hashlib.md5(content).hexdigest() + suffix
    path = place(project, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


def place(project, digest):
    return project.paths.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


def versions(project, name):
    return sorted(int(v.version) for v in project.store.client().search_model_versions(f"name = '{name}'"))


def commit(project, outputs):
    """Commit a dvc.lock with these digests by path, and the pin that lies in the work tree."""
    outputs = outputs | {"data/registry/pair.json": cached(project, project.paths.pair_pin.read_bytes())}
    outs = [{"path": path, "md5": digest} for path, digest in outputs.items()]
    (project.paths.root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))
    git(project.paths.root, "add", "dvc.lock")
    git(project.paths.root, "commit", "--quiet", "--message", "results")


@pytest.fixture
def repository(trained):
    """A registered pair in a project with git and DVC."""
    root = trained.paths.root
    git(root, "init", "--quiet")
    subprocess.run(["dvc", "init", "--quiet"], cwd=root, check=True, capture_output=True)
    (root / ".gitignore").write_text("/data/\n/.sensorium/\n/mlflow.db\n/mlartifacts/\n/reports/\n")
    register.run(trained.config, trained.paths)
    return trained


def weights(project, number):
    """MD5 of the first fold's weights in a version of the student."""
    tag = project.store.client().get_model_version(STUDENT, number).tags[FILES]
    return VersionFiles.unpacked(tag).objects["artifacts/data/model/fold_0/model.safetensors"].md5


def train_again(project, seed):
    project.train("distillation_001", seed=seed)
    register.run(project.config, project.paths)


def test_objects_of_no_commit_are_listed_and_then_removed(repository, capsys):
    file, old, present = (cached(repository, content) for content in (b"file", b"old", b"present"))
    folder = cached(repository, json.dumps([{"md5": file, "relpath": "a"}]).encode(), ".dir")
    commit(repository, {"data/folds": folder, "data/x": old})
    commit(repository, {"data/folds": folder, "data/x": present})
    nobody = cached(repository, b"nobody needs this")
    gc.run(repository.paths)
    assert place(repository, nobody).exists()
    assert "Nothing was changed" in capsys.readouterr().out
    gc.run(repository.paths, delete=True)
    assert not place(repository, nobody).exists()
    assert all(place(repository, digest).exists() for digest in (file, old, present, folder))


def test_objects_of_tags_and_imports_are_kept(repository):
    root = repository.paths.root
    tagged, imported = cached(repository, b"tagged"), cached(repository, b"imported")
    commit(repository, {"data/x": tagged})
    git(root, "tag", "v1")
    git(root, "checkout", "--quiet", "--orphan", "other")
    commit(repository, {})
    (root / "weights.dvc").write_text(yaml.safe_dump({"outs": [{"path": "weights", "md5": imported}]}))
    gc.run(repository.paths, delete=True)
    assert place(repository, tagged).exists()
    assert place(repository, imported).exists()


def test_objects_of_a_merged_branch_are_kept(repository):
    """Its dvc.lock was not taken in the merge, and its name is gone."""
    root = repository.paths.root
    commit(repository, {})
    main = git(root, "branch", "--show-current")
    git(root, "checkout", "--quiet", "-b", "side")
    digest = cached(repository, b"made on a branch")
    commit(repository, {"data/x": digest})
    git(root, "checkout", "--quiet", main)
    git(root, "merge", "--quiet", "--strategy", "ours", "--message", "merge", "side")
    git(root, "branch", "--delete", "--force", "side")
    gc.run(repository.paths, delete=True)
    assert place(repository, digest).is_file()


def test_objects_that_a_damaged_lock_of_a_commit_names_are_kept(repository):
    root = repository.paths.root
    commit(repository, {})
    whole = (root / "dvc.lock").read_text()
    digest = cached(repository, b"in a conflict")
    (root / "dvc.lock").write_text(f"<<<<<<< HEAD\nstages:\n  - md5: {digest}\n=======\n")
    git(root, "commit", "--quiet", "--all", "--message", "a conflict")
    (root / "dvc.lock").write_text(whole)
    git(root, "commit", "--quiet", "--all", "--message", "mended")
    gc.run(repository.paths, delete=True)
    assert place(repository, digest).is_file()


@pytest.mark.parametrize(
    "content", [b"<<<<<<< HEAD\nstages:\n", b"stages: {all: 1}\n", b"stages:\n", b"\xff", b"stages:\n  other: {}\n"]
)
def test_nothing_is_removed_beside_a_damaged_lock(repository, content):
    commit(repository, {})
    digest = cached(repository, b"made a moment ago")
    (repository.paths.root / "dvc.lock").write_bytes(content)
    with pytest.raises(PipelineError, match=r"dvc\.lock: damaged.*\n.*git checkout dvc\.lock"):
        gc.run(repository.paths, delete=True)
    assert place(repository, digest).is_file()


def test_versions_that_nothing_pins_are_removed(repository, capsys):
    commit(repository, {})
    train_again(repository, 1)
    train_again(repository, 2)
    assert versions(repository, STUDENT) == [1, 2, 3]
    gone, kept = [place(repository, weights(repository, number)) for number in ("2", "3")]
    gc.run(repository.paths, delete=True)
    assert f"{STUDENT} version 2" in capsys.readouterr().out
    assert [versions(repository, name) for name in (TEACHER, STUDENT, PAIR)] == [[1], [1, 3], [1, 3]]
    assert (gone.exists(), kept.exists()) == (False, True)
    with closing(sqlite3.connect(repository.store.database)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
    assert set(load_pair(repository.paths.pair_pin, repository.paths)) == {"true_batch_001", "distillation_001"}


def test_a_champion_keeps_its_models_and_its_data(repository):
    data = cached(repository, b"data of the champion")
    outs = [{"path": "data/store/x", "md5": data}]
    (repository.paths.root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))
    train_again(repository, 1)
    repository.store.client().set_registered_model_alias(PAIR, "champion", "2")
    (repository.paths.root / "dvc.lock").unlink()
    train_again(repository, 2)
    commit(repository, {})
    gc.run(repository.paths, delete=True)
    assert [versions(repository, name) for name in (STUDENT, PAIR)] == [[2, 3], [2, 3]]
    assert place(repository, data).exists()
    assert place(repository, weights(repository, "2")).exists()  # which no commit names
    assert sensorium.load("models:/sensorium-pair@champion")


def test_the_champion_that_a_rollback_returns_to_is_kept(repository):
    commit(repository, {})
    for seed in (1, 2, 3):
        train_again(repository, seed)
    client = repository.store.client()
    client.set_model_version_tag(PAIR, "3", PREVIOUS, "2")
    client.set_registered_model_alias(PAIR, "champion", "3")
    gc.run(repository.paths, delete=True)
    assert versions(repository, PAIR) == [1, 2, 3, 4]
    assert rollback(repository.paths).version == 2


def test_deleted_runs_go_for_good(repository):
    commit(repository, {})
    client = repository.store.client()
    run = client.create_run("0")
    client.delete_run(run.info.run_id)
    gc.run(repository.paths, delete=True)
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="not found"):
        client.get_run(run.info.run_id)


def test_nothing_is_removed_outside_of_a_repository(trained):
    register.run(trained.config, trained.paths)
    nobody = cached(trained, b"nobody needs this")
    with pytest.raises(PipelineError, match="git does not say"):
        gc.run(trained.paths, delete=True)
    assert place(trained, nobody).exists()


def test_a_cache_that_projects_share_is_left_alone(repository, tmp_path_factory):
    commit(repository, {})
    nobody = cached(repository, b"nobody needs this")
    shared = tmp_path_factory.mktemp("shared") / "cache"
    (repository.paths.root / ".dvc" / "cache").rename(shared)
    subprocess.run(["dvc", "cache", "dir", str(shared)], cwd=repository.paths.root, check=True, capture_output=True)
    with pytest.raises(PipelineError, match="outside of the project"):
        gc.run(repository.paths, delete=True)
    assert (shared / "files" / "md5" / nobody[:2] / nobody[2:]).exists()
