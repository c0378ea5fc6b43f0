"""`mlflow run` hands its run to the stage that was asked for, and DVC does the rest."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from flaky_server import answers, free_port, wait_until
from tiny import tiny_tree
from typer.testing import CliRunner

from sensorium.cli.app import app
from sensorium.cli.verbs import VERBS
from sensorium.commands import project as stage
from sensorium.errors import ConfigError, PipelineError
from sensorium.tracking.project_run import environment_folder

ROOT = Path(__file__).parents[2]


_PIPELINE = """
stages:
  store:
    cmd: env | sort > data/store
    outs:
    - data/store
  train:
    foreach: {true_batch_001-0: fold_0, true_batch_001-1: fold_1}
    do:
      cmd: mkdir -p data/experiments/true_batch_001 && env | sort > data/experiments/true_batch_001/${item}
      deps:
      - data/store
      outs:
      - data/experiments/true_batch_001/${item}
  broken:
    cmd: "false"
    outs:
    - data/broken
"""


@pytest.fixture
def pipeline(bare_project, monkeypatch):
    """A project whose stages write the environment that they see."""
    root = bare_project.paths.root
    (root / "dvc.yaml").write_text(_PIPELINE)
    (root / "data").mkdir()
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = True\n    analytics = False\n")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return bare_project


def environment(path):
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def run(project, *stages):
    stage.run(project.config, project.paths, list(stages))


def test_only_the_stage_that_was_asked_for_gets_the_run(pipeline, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "the-run")
    monkeypatch.setattr(stage, "_trained_here", lambda *arguments: True)
    run(pipeline, "train@true_batch_001-1")
    upstream = environment(pipeline.paths.stores)
    assert not {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "SENSORIUM_RUN"} & upstream.keys()
    asked = environment(pipeline.paths.fold("true_batch_001", 1))
    assert json.loads(asked["SENSORIUM_RUN"]) == {"true_batch_001/fold_1": "the-run"}
    assert "MLFLOW_RUN_ID" not in asked
    assert not pipeline.paths.fold("true_batch_001", 0).exists()


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("stroe", "broken, store, train"),
        ("train@true_batch_001-2", "train@true_batch_001-0, train@true_batch_001-1"),
        ("train@true_batch_001-abc", "train@true_batch_001-0, train@true_batch_001-1"),
    ],
)
def test_an_unknown_stage_is_refused_before_anything_runs(pipeline, name, choice):
    with pytest.raises(ConfigError, match=f"stage '{name}': not in dvc.yaml") as told:
        run(pipeline, name)
    assert choice in told.value.remedy
    assert not pipeline.paths.stores.exists()


def test_a_group_and_its_item_all_are_the_same(pipeline):
    run(pipeline, "train@all")
    assert all(pipeline.paths.fold("true_batch_001", fold).exists() for fold in (0, 1))


def test_a_failed_stage_is_told(pipeline):
    with pytest.raises(PipelineError, match=r"dvc repro broken: failed"):
        run(pipeline, "broken")


def test_every_entry_point_calls_a_verb_with_its_options():
    """What MLproject types is parsed by the command line: unknown options end with code 2."""
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    for name, entry in entry_points.items():
        command = entry["command"].format(**dict.fromkeys(entry.get("parameters", {}), "x"))
        verb = [part for part in command.split()[1:] if not part.startswith("--") and part != "x"]
        helped = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
        assert helped.exit_code == 0, name
        for option in (part for part in command.split() if part.startswith("--")):
            assert option in helped.output, (name, option)
        for key, parameter in entry.get("parameters", {}).items():
            assert set(parameter) in ({"type", "default"}, {"type"}), (name, key)


def test_every_verb_has_an_entry_point():
    """But `run`, which `main` is for DVC, and the print of params.yaml."""
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    verbs = {verb for group in VERBS.values() for verb in group if " " not in verb}
    assert verbs - entry_points.keys() <= {"run", "config"}


def test_the_environment_is_that_of_the_project_in_the_working_folder(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(tmp_path / "envs"))
    for name in ("python_env.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    stage.run_install(project.paths)
    folder = environment_folder(tmp_path)
    assert folder.parent == tmp_path / "envs"

    def activate(cwd):
        script = f'source {folder}/bin/activate && command -v python && echo "$PYTHONPATH"'
        bare = {"PATH": "/usr/bin:/bin"}
        return subprocess.run(["bash", "-c", script], cwd=cwd, env=bare, capture_output=True, text=True, check=False)

    elsewhere = tmp_path / "a clone of MLflow's"
    elsewhere.mkdir()
    for cwd in (tmp_path, elsewhere):
        python, searched = activate(cwd).stdout.splitlines()
        assert Path(python).parent == Path(sys.executable).parent
        assert searched == str(cwd), "the project in the working folder runs its own code"
    (folder / "bin" / "installed").write_text("export PATH=/nowhere:$PATH\n")
    refused = activate(elsewhere)
    assert refused.returncode != 0
    assert "make install" in refused.stderr


def test_an_environment_that_pyenv_made_is_left_alone(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(tmp_path / "envs"))
    for name in ("python_env.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    script = environment_folder(tmp_path) / "bin" / "activate"
    script.parent.mkdir(parents=True)
    script.write_text("# virtualenv\n")
    stage.run_install(project.paths)
    assert script.read_text() == "# virtualenv\n"


# -- the real thing ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project with the tiny dataset, installed for `mlflow run`."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("dvc.yaml", ".dvcignore", "MLproject", "python_env.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "sensorium", root / "sensorium", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_tree(), sort_keys=False))
    assert call(root, "dvc", "init", "--no-scm", "--quiet").returncode == 0
    assert call(root, "sensorium", "project", "install").returncode == 0
    assert (root / "mlflow.db").exists()  # made before any parallel runs
    return root


def call(root, *command, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SENSORIUM_"))}
    own = {"MLFLOW_ENV_ROOT": str(root / "envs"), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    program = Path(sys.executable).parent / command[0]
    path = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}" if command[0] != "mlflow" else "/usr/bin:/bin"
    )
    return subprocess.run(
        [program, *command[1:]],
        cwd=root,
        env=kept | own | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def runs_of(root):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mlflow_run_bare_trains_in_the_run_that_it_makes(clone):
    done = call(clone, "mlflow", "run", ".", "-e", "train", "-P", "fold=1")
    assert done.returncode == 0, done.stdout + done.stderr
    (child,) = [run for run in runs_of(clone) if run.data.tags.get("sensorium.role") != "experiment"]
    (row,) = [run for run in runs_of(clone) if run.data.tags.get("sensorium.role") == "experiment"]
    assert child.data.tags["mlflow.parentRunId"] == row.info.run_id
    assert child.info.experiment_id == row.info.experiment_id  # or the leaderboard would not unfold it
    assert child.data.tags["mlflow.source.type"] == "PROJECT"
    assert child.data.tags["sensorium.fold"] == "1"
    assert child.data.params["fold"] == "1"
    assert "training.learning_rate" in child.data.params
    assert child.info.status == "FINISHED"
    live = set(child.data.metrics)
    assert {"val/correlation", "train/loss"} <= live
    assert call(clone, "dvc", "status", "train@true_batch_001-1").stdout.strip() == "Data and pipelines are up to date."

    # again: nothing is left to train, the new run tells of the same training
    done = call(clone, "mlflow", "run", ".", "-e", "train", "-P", "fold=1")
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = [run for run in runs_of(clone) if run.data.tags.get("sensorium.role") == "record"]
    assert again.data.tags["sensorium.recorded_from"] == child.info.run_id
    validation = {key: value for key, value in again.data.metrics.items() if key.startswith("val/")}
    assert validation == {key: value for key, value in child.data.metrics.items() if key.startswith("val/")}
    assert set(again.data.metrics) <= live
    assert call(clone, "dvc", "status", "train@true_batch_001-1").stdout.strip() == "Data and pipelines are up to date."


@pytest.mark.slow
def test_mlflow_run_takes_the_address_of_a_repository(clone, tmp_path, monkeypatch):
    address, folder = "https://git.example/sensorium", tmp_path / "elsewhere"
    folder.mkdir()
    repository = tmp_path / "repository"
    for name in ("sensorium", "conf"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("MLproject", "dvc.yaml", "params.yaml", "python_env.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, repository)
    git = ["git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    for name, value in (("COUNT", "1"), ("KEY_0", f"url.{repository}.insteadOf"), ("VALUE_0", address)):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    done = call(folder, "mlflow", "run", address, "-e", "model", MLFLOW_ENV_ROOT=str(clone / "envs"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cortex.0" in done.stdout
    (run,) = runs_of(folder)
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_mlflow_run_tells_bad_values(clone):
    done = call(clone, "mlflow", "run", ".", "-e", "train", "-P", "fold=17")
    assert done.returncode != 0
    assert "fold '17': out of range" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_is_served_is_what_was_predicted(clone):
    """The pair answers over HTTP with the bits of `sensorium ensemble`, the student with its own."""
    done = call(clone, "dvc", "repro", "ensemble@live_test_main", "predict@distillation_001-live_test_main")
    assert done.returncode == 0, done.stdout + done.stderr
    done = call(clone, "sensorium", "promote")
    assert done.returncode == 0, done.stdout + done.stderr
    mouse = NEW_MOUSE
    predictions = clone / "data" / "predictions"
    pair, student = (predictions / name / "live_test_main" / mouse for name in (PAIR_FOLDER, "distillation_001"))
    trial = min(path.stem for path in pair.glob("*.npy"))
    raw = clone / "data" / "sensorium_all_2023" / mouse / "data"
    inputs = {name: valid(np.load(raw / folder / f"{trial}.npy")) for name, folder in MODALITIES.items()}
    with serving(clone, "models:/sensorium-pair@champion") as port:
        for model, folder in (("ensemble", pair), ("student", student)):
            status, reply = ask(port, {"inputs": inputs, "params": {"mouse": mouse, "model": model}})
            assert status == 200, reply
            assert np.array_equal(np.asarray(reply["predictions"], np.float32), np.load(folder / f"{trial}.npy"))
        status, reply = ask(port, {"inputs": inputs, "params": {"mouse": "mickey"}})
        assert status == 400
        assert "params.mouse: 'mickey' is unknown" in reply["message"]


NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
PAIR_FOLDER = "distillation_001,true_batch_001"
MODALITIES = {"video": "videos", "behavior": "behavior", "pupil_center": "pupil_center"}


def valid(array):
    """The frames before the NaN tail, as JSON takes them."""
    return array[..., np.isfinite(array).reshape(-1, array.shape[-1]).all(axis=0)].astype(float).tolist()


@contextlib.contextmanager
def serving(root, model):
    port = free_port()
    program = Path(sys.executable).parent / "mlflow"
    command = [program, "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port)]
    own = {"PYTHONPATH": str(root), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "False"}
    own["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | own
    with (root / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/ping"), 180)
            yield port
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


def ask(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_comparison_agrees_with_the_evaluation(clone):
    done = call(clone, "dvc", "repro", "evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    done = call(clone, "sensorium", "compare", "distillation_001", "true_batch_001")
    assert done.returncode == 0, done.stderr
    found = json.loads((clone / "reports" / "comparison" / "distillation_001-true_batch_001.json").read_text())
    scores = pd.read_csv(clone / "reports" / "evaluation" / "scores.csv").query("tier == 'all'")
    scores = scores.set_index(["source", "mouse", "fold"])["single_trial_correlation"]
    for cell in found["cells"]:
        where = (cell["mouse"], str(cell["fold"]))
        assert cell["difference"] == pytest.approx(scores["student", *where] - scores["teacher", *where], abs=3e-6)
        assert cell["low"] <= cell["high"]
