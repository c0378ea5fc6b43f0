"""A run says how to train it again, and the second training is compared with the first."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from tiny import tiny_tree
from typer.testing import CliRunner

from sensorium.cli.app import app
from sensorium.commands import reproduce as stage
from sensorium.errors import ConfigError, PipelineError, TrackingError
from sensorium.files import sha256, write_json
from sensorium.reproduction.drift import Outcome, judge
from sensorium.reproduction.rebuild import clone_commit, place_data
from sensorium.reproduction.receipt import read_receipt, write_receipt
from sensorium.tracking import provenance
from sensorium.tracking.training_record import TrainingRecord, read_training_record

ROOT = Path(__file__).parents[2]
EXPERIMENT = "true_batch_001"


# -- the verdict ---------------------------------------------------------------------------------


def outcome(folder, weights=(1.0, -2.0), history="epoch,val_loss\n0,0.5\n", **known):
    folder.mkdir()
    save_file({"core": np.array(weights, np.float32)}, folder / "model.safetensors")
    (folder / "history.csv").write_text(history)
    info = {"provenance": {"torch": "2.13", "code": {"model": "a" * 64}} | known}
    write_json(folder / "config.json", {"info": info, "weights": {"sha256": sha256(folder / "model.safetensors")}})
    return Outcome.of(folder)


def test_equal_files_are_bitwise_equal(tmp_path):
    found = judge(outcome(tmp_path / "a"), outcome(tmp_path / "b"), 0)
    assert (found.verdict, found.weights.relative, found.metrics.relative, found.causes) == ("bitwise", 0, 0, [])


@pytest.mark.parametrize(("tolerance", "verdict"), [(1e-3, "within tolerance"), (1e-5, "drift"), (0, "drift")])
def test_a_small_difference_passes_up_to_the_tolerance(tmp_path, tolerance, verdict):
    found = judge(outcome(tmp_path / "a"), outcome(tmp_path / "b", weights=(1.0, -2.0002)), tolerance)
    assert found.verdict == verdict
    assert found.weights.relative == pytest.approx(1e-4, rel=1e-2)  # of the largest magnitude, 2
    assert found.weights.place == "core"


def test_metrics_count_as_well_as_weights(tmp_path):
    found = judge(outcome(tmp_path / "a"), outcome(tmp_path / "b", history="epoch,val_loss\n0,0.6\n"), 1e-3)
    assert found.verdict == "drift"
    assert found.metrics.relative == pytest.approx(0.2)
    assert found.metrics.place == "val_loss"


@pytest.mark.parametrize(
    "other", [{"weights": (1.0, -2.0, 3.0)}, {"weights": (1.0, float("nan"))}, {"history": "epoch\n0\n"}]
)
def test_other_shapes_nan_and_other_columns_are_drift_at_any_tolerance(tmp_path, other):
    found = judge(outcome(tmp_path / "a"), outcome(tmp_path / "b", **other), 1e9)
    assert found.verdict == "drift"
    json.dumps(found.to_json(), allow_nan=False)


def test_what_was_not_the_same_is_named(tmp_path):
    found = judge(outcome(tmp_path / "a"), outcome(tmp_path / "b", torch="2.14", code={"model": "b" * 64}), 0)
    assert found.verdict == "bitwise"
    assert found.causes == ["code.model: aaaaaaaaaaaa... before, bbbbbbbbbbbb... now", "torch: 2.13 before, 2.14 now"]


def test_without_the_first_weights_their_digest_and_the_history_decide(tmp_path):
    first, again = outcome(tmp_path / "a"), outcome(tmp_path / "b")
    gone = Outcome(first.config, first.history, None)
    assert judge(gone, again, 0).verdict == "bitwise"
    other = judge(gone, outcome(tmp_path / "c", weights=(1.0, 2.0)), 1e-3)
    assert (other.verdict, other.weights) == ("within tolerance", None)
    assert judge(Outcome(first.config, None, None), outcome(tmp_path / "d", weights=(3.0, 2.0)), 1).verdict == "drift"


# -- what a run tells ----------------------------------------------------------------------------

TOLD = {
    "sensorium.role": "fold",
    "sensorium.experiment": EXPERIMENT,
    "sensorium.fold": "1",
    "mlflow.source.git.commit": "c" * 40,
    "sensorium.git.dirty": "false",
    "sensorium.threads": "3",
    "dvc.data/folds": "0123456789abcdef0123456789abcdef.dir",
}


def make_run(project, status="FINISHED", artifacts=(), without=(), **tags):
    client = project.store.client()
    told = {key: value for key, value in (TOLD | tags).items() if key not in without}
    run_id = client.create_run(project.store.experiment_id(client, EXPERIMENT), tags=told).info.run_id
    for name, text in dict(artifacts).items():
        client.log_text(run_id, text, name)
    client.set_terminated(run_id, status)
    return run_id


def read(project, name):
    return read_training_record(project.config, project.paths, name)


def test_a_run_tells_commit_data_threads_and_changes(project):
    run_id = make_run(project, artifacts={"uncommitted.patch": "diff", "history.csv": "epoch\n"})
    recipe = read(project, run_id)
    assert (recipe.name, recipe.commit, recipe.threads, recipe.patch) == (f"{EXPERIMENT}/fold_1", "c" * 40, 3, b"diff")
    assert recipe.inputs == {"data/folds": TOLD["dvc.data/folds"]}
    assert recipe.artifacts == {"history.csv": b"epoch\n"}
    write_json(project.paths.run_link(EXPERIMENT, 1), {"run_id": run_id, "tracking_uri": "sqlite:///mlflow.db"})
    assert read(project, f"{EXPERIMENT}/fold_1") == recipe
    record = make_run(project, **{"sensorium.role": "record", "sensorium.recorded_from": run_id})
    assert read(project, record) == recipe


def test_an_older_run_is_compared_by_what_it_recorded(project):
    """The fold on disk is that of a later training."""
    config = json.dumps({"weights": {"sha256": "a" * 64}, "info": {"provenance": {}}})
    run_id = make_run(project, artifacts={"config.json": config, "history.csv": "epoch\n0\n"})
    project.train(EXPERIMENT)
    write_json(project.paths.run_link(EXPERIMENT, 1), {"run_id": "0" * 32, "tracking_uri": "sqlite:///mlflow.db"})
    first = stage._first(project.paths, read(project, run_id))
    assert (first.digest, first.history, first.weights) == ("a" * 64, b"epoch\n0\n", None)
    with pytest.raises(TrackingError, match=r"neither config\.json nor history\.csv"):
        stage._first(project.paths, read(project, make_run(project)))


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        ({"status": "KILLED"}, "not finished, its status is KILLED"),
        ({"without": ["mlflow.source.git.commit"]}, "ran outside a git repository"),
        ({"sensorium.git.dirty": "true"}, "uncommitted changes that were not recorded"),
        ({"without": ["dvc.data/folds"]}, "does not record which data it read"),
    ],
)
def test_a_run_that_does_not_tell_enough_is_refused(project, run, problem):
    with pytest.raises(TrackingError, match=problem):
        read(project, make_run(project, **run))


def test_a_parent_names_its_folds(project):
    parent = make_run(project, **{"sensorium.role": "experiment"})
    fold = make_run(project, **{"mlflow.parentRunId": parent})
    with pytest.raises(TrackingError, match="not the training of a fold") as told:
        read(project, parent)
    assert f"{fold} (fold 1)" in told.value.remedy


def test_a_pulled_fold_is_trained_again_from_the_tree_that_it_came_with(repository):
    """Its run is in another store."""
    root, folder = repository.paths.root, repository.paths.fold(EXPERIMENT, 1)
    write_json(repository.paths.run_link(EXPERIMENT, 1), {"run_id": "0" * 32, "tracking_uri": "http://elsewhere"})
    with pytest.raises(TrackingError, match=r"config\.json: the file does not exist"):
        read(repository, f"{EXPERIMENT}/fold_1")
    folder.mkdir(parents=True)
    for name in ("config.json", "history.csv"):
        (folder / name).write_text("{}")
    with pytest.raises(TrackingError, match=r"neither its run nor a commit with dvc\.lock"):
        read(repository, f"{EXPERIMENT}/fold_1")
    digest = TOLD["dvc.data/folds"]
    (root / "dvc.lock").write_text(f"stages:\n  folds:\n    outs:\n    - {{path: data/folds, md5: {digest}}}\n")
    recipe = read(repository, f"{EXPERIMENT}/fold_1")
    assert (recipe.run_id, recipe.patch, recipe.inputs) == (None, b"", {"data/folds": digest})
    assert recipe.commit == git(root, "rev-parse", "HEAD")
    assert recipe.key == f"{EXPERIMENT}-fold_1"
    rebuilt = make_run(repository, without=["mlflow.source.git.commit"], **{"sensorium.rebuilt_from": "0" * 32})
    write_json(repository.paths.run_link(EXPERIMENT, 1), {"run_id": rebuilt, "tracking_uri": repository.store.label})
    assert read(repository, f"{EXPERIMENT}/fold_1") == recipe


def test_unknown_names_are_refused(project):
    with pytest.raises(TrackingError, match="not at sqlite") as told:
        read(project, "0" * 32)
    assert "MLFLOW_TRACKING_URI" in told.value.remedy
    with pytest.raises(ConfigError, match="neither the id of an MLflow run nor a fold"):
        read(project, "nonsense")
    with pytest.raises(TrackingError, match=r"fold_7\.json: the file does not exist"):
        read(project, f"{EXPERIMENT}/fold_7")


# -- the folder ----------------------------------------------------------------------------------


def git(root, *arguments):
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(project):
    """The project as a git repository with DVC beside it."""
    root = project.paths.root
    (root / ".gitignore").write_text("/data/\n/.sensorium/\n/mlflow.db\n/mlartifacts/\n/reports/\n/remote/\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = here\n['remote \"here\"']\n    url = ../remote\n"
    )
    (root / ".dvc" / ".gitignore").write_text("/cache\n/tmp\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "first")
    return project


def cached(project, content, where="cache"):
    """An object as DVC keeps it; returns its digest."""
    import hashlib

    digest = hashlib.md5(content).hexdigest()
    base = project.paths.root / (".dvc/cache" if where == "cache" else "remote")
    path = base / "files" / "md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


def test_a_clone_has_the_commit_and_the_changes_and_leaves_the_tree_alone(repository, tmp_path):
    root = repository.paths.root
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 7"))
    (root / "dvc.lock").write_text("stages: {}\n")
    patch = provenance.uncommitted(root)
    commit = provenance.commit_of(root)
    git(root, "commit", "--quiet", "--all", "-m", "later")
    params.write_text("the user's own\n")
    project = clone_commit(root, commit, patch, root / ".sensorium" / "clone")
    assert yaml.safe_load((project / "params.yaml").read_text())["seed"] == 7
    assert params.read_text() == "the user's own\n"
    assert git(root, "status", "--porcelain", "--untracked-files=no") == "M params.yaml"
    (project / "kept").touch()
    assert (clone_commit(root, commit, patch, root / ".sensorium" / "clone") / "kept").exists()
    assert not (clone_commit(root, commit, b"", root / ".sensorium" / "clone") / "kept").exists()


def test_the_patch_leaves_dvc_lock_out(repository):
    root = repository.paths.root
    (root / "dvc.lock").write_text("stages: {}\n")
    git(root, "add", "dvc.lock")
    git(root, "commit", "--quiet", "-m", "lock")
    (root / "dvc.lock").write_text("stages: {a: b}\n")
    assert provenance.uncommitted(root) == b""
    assert provenance.Provenance.current(root, "train").to_tags()["sensorium.git.dirty"] == "false"


def test_an_unknown_commit_is_told_and_leaves_nothing(repository):
    folder = repository.paths.root / ".sensorium" / "clone"
    with pytest.raises(PipelineError, match=f"commit {'c' * 40} is not in this repository") as told:
        clone_commit(repository.paths.root, "c" * 40, b"", folder)
    assert "git fetch" in told.value.remedy
    assert not folder.exists()


def test_data_comes_from_the_cache_and_what_is_missing_from_the_remote(repository, tmp_path):
    one, two = cached(repository, b"one"), cached(repository, b"two", "remote")
    listing = json.dumps([{"md5": one, "relpath": "a"}, {"md5": two, "relpath": "b/c"}]).encode()
    folder = cached(repository, listing, "remote")
    named = repository.paths.root / "remote" / "files" / "md5" / folder[:2] / folder[2:]
    named.rename(named.with_name(f"{named.name}.dir"))
    place_data(repository.paths.root, {"data/folds": f"{folder}.dir"}, tmp_path / "target")
    placed = tmp_path / "target" / "data" / "folds"
    assert {p.relative_to(placed).as_posix(): p.read_bytes() for p in placed.rglob("*") if p.is_file()} == {
        "a": b"one",
        "b/c": b"two",
    }
    assert not repository.paths.folds.exists()


def test_data_that_is_nowhere_is_named(repository, tmp_path):
    with pytest.raises(PipelineError, match=rf"data/folds {'0' * 32}\.dir, and the remote did not give it"):
        place_data(repository.paths.root, {"data/folds": f"{'0' * 32}.dir"}, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_reproduction_that_is_at_work_is_not_disturbed(project):
    from sensorium.files import exclusive_lock

    run_id = make_run(project)
    with (
        exclusive_lock(project.paths.state / "locks" / f"reproduce-{run_id}.lock", AssertionError()),
        pytest.raises(PipelineError, match="being reproduced already"),
    ):
        stage.reproduce(project.config, project.paths, run_id, 0.0, False)


def test_a_negative_tolerance_is_refused():
    assert CliRunner().invoke(app, ["reproduce", "0" * 32, "--tolerance", "-1"]).exit_code == 2


# -- receipts ------------------------------------------------------------------------------------


@pytest.fixture
def record(repository):
    """A finished training with changes that were not committed."""
    config = {
        "info": {"experiment": EXPERIMENT, "fold": 1, "scores": {"val_correlation": 0.5}, "provenance": {}},
        "weights": {"sha256": "d" * 64, "bytes": 10},
    }
    files = {"config.json": json.dumps(config).encode(), "history.csv": b"epoch,val_loss\n0,0.5\n"}
    commit = provenance.commit_of(repository.paths.root)
    inputs = {"data/folds": TOLD["dvc.data/folds"]}
    return TrainingRecord("f" * 32, EXPERIMENT, 1, commit, b"a patch\n", inputs, 3, "x86 x 2", files)


def test_a_receipt_tells_all_that_the_run_told(repository, record, tmp_path):
    git(repository.paths.root, "remote", "add", "origin", "https://me:secret-word@example.org/project.git")
    for name in ("one", "two"):
        write_receipt(repository.paths.root, record, "3.11.7", tmp_path / name)
    receipt, again = read_receipt(tmp_path / "one")
    assert again == dataclasses.replace(record, run_id=None)
    assert receipt.repository is not None
    assert "example.org/project.git" in receipt.repository
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert contents[0] == contents[1]
    assert not any(b"secret-word" in content for content in contents[0].values())


def test_a_receipt_is_an_ro_crate(repository, record, tmp_path):
    from rocrate.rocrate import ROCrate

    write_receipt(repository.paths.root, record, "3.11.7", tmp_path / "receipt")
    crate = ROCrate(tmp_path / "receipt")
    assert {file.id for file in crate.get_by_type("File")} == {
        path.name for path in (tmp_path / "receipt").iterdir() if path.name != "ro-crate-metadata.json"
    }
    (training,) = crate.get_by_type("CreateAction")
    assert training["instrument"]["version"] == record.commit
    assert [data["name"] for data in training["object"]] == ["data/folds"]
    assert training["result"][0]["sha256"] == "d" * 64


@pytest.mark.parametrize("name", ["config.json", "history.csv", "uncommitted.patch", "receipt.json"])
def test_a_changed_receipt_is_refused(repository, record, tmp_path, name):
    write_receipt(repository.paths.root, record, "3.11.7", tmp_path / "receipt")
    file = tmp_path / "receipt" / name
    file.write_bytes(file.read_bytes().replace(b"5", b"6").replace(b"a patch", b"b patch").replace(b"md5", b""))
    if name == "receipt.json":
        file.write_text("{}")
    with pytest.raises(ConfigError, match=name):
        read_receipt(tmp_path / "receipt")


def test_a_receipt_without_an_address_asks_for_one(repository, record, tmp_path_factory, monkeypatch):
    empty = tmp_path_factory.mktemp("empty")
    write_receipt(repository.paths.root, record, "3.11.7", empty / "receipt")
    monkeypatch.chdir(empty)
    with pytest.raises(ConfigError, match="names no git repository"):
        stage.run("receipt")
    with pytest.raises(PipelineError, match="cannot be cloned"):
        stage.run("receipt", repository=str(empty / "nowhere"))
    assert [path.name for path in empty.iterdir()] == ["receipt"]


# -- the real thing ------------------------------------------------------------------------------


def call(root, *command):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SENSORIUM_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": path, "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=kept | own, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_training_with_uncommitted_settings_is_reproduced_bit_for_bit(tmp_path):
    root = tmp_path / "clone"
    root.mkdir()
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "sensorium", root / "sensorium", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_tree(), sort_keys=False))
    git(root, "init", "--quiet")
    assert call(root, "dvc", "init", "--quiet").returncode == 0
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "all")
    tree = tiny_tree()
    tree["seed"] = 5
    (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    done = call(root, "dvc", "repro", "train@true_batch_001-1")
    assert done.returncode == 0, done.stdout + done.stderr
    before = git(root, "status", "--porcelain").splitlines()
    git(root, "checkout", "--quiet", "params.yaml")  # the tree moves on

    done = call(root, "sensorium", "reproduce", f"{EXPERIMENT}/fold_1", "--tolerance", "0", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bitwise equal" in done.stdout
    (report,) = (root / "reports" / "reproduction").glob("*.json")
    assert json.loads(report.read_text())["verdict"] == "bitwise"
    assert git(root, "status", "--porcelain") == "\n".join(line for line in before if "params" not in line)
    run_id = report.stem
    clone = root / ".sensorium" / "reproduce" / run_id
    assert yaml.safe_load((clone / "params.yaml").read_text())["seed"] == 5
    assert sha256(clone / "data/experiments/true_batch_001/fold_1/model.safetensors") == sha256(
        root / "data/experiments/true_batch_001/fold_1/model.safetensors"
    )

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    assert client.get_run(run_id).data.tags["sensorium.reproduced"] == "bitwise"
    assert len(client.search_runs([client.get_run(run_id).info.experiment_id])) == 2  # the parent and the fold

    weights = root / "data/experiments/true_batch_001/fold_1/model.safetensors"
    changed = {name: np.asarray(tensor * 1.5, tensor.dtype) for name, tensor in load_file(weights).items()}
    weights.unlink()
    save_file(changed, weights)
    config = weights.with_name("config.json")
    known = json.loads(config.read_text())
    config.unlink()
    write_json(config, known | {"weights": known["weights"] | {"sha256": sha256(weights)}})
    (root / "mlflow.db").unlink()  # as after a pull: the fold is there, its run is not
    (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    done = call(root, "sensorium", "reproduce", f"{EXPERIMENT}/fold_1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "drift" in done.stdout
    assert (root / ".sensorium" / "reproduce" / "true_batch_001-fold_1").is_dir()
