"""`sensorium sweep` on tiny trainings."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from sweep_runs import count, facts, search, start
from tiny import ROOT
from typer.testing import CliRunner

from sensorium import tracking
from sensorium.callbacks.recorder import Recorder
from sensorium.cli.app import app
from sensorium.commands import sweep as stage
from sensorium.config import load
from sensorium.errors import CheckpointError, ConfigError, PipelineError
from sensorium.experiments import known_experiments
from sensorium.model.checkpoint import read_info
from sensorium.paths import Paths
from sensorium.stages import train
from sensorium.sweep.space import apply
from sensorium.sweep.study import Sweep
from sensorium.tracking import recorder
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.store import TrackingStore
from sensorium.tracking.uploader import Uploader

NAME = "true_batch_001-space"
SPACE = {
    "startup_trials": 2,
    "parameters": {
        "training.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "model.expansion": {"choices": [1, 2]},
    },
}
_ENTRY = ("--space", "space.yaml")


@pytest.fixture(scope="module")
def small(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project with one epoch of warm-up and two more, and a space."""
    root = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("sweep") / "project"))
    tree = yaml.safe_load((root / "params.yaml").read_text())
    for settings in tree["experiments"].values():
        settings["training"] |= {"samples_per_epoch": 12, "cosine_epochs": 2}
        settings["model"]["se_reduction"] = 2
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    (root / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    return root


@pytest.fixture(scope="module")
def searched(small: Path) -> Path:
    """A project with a sweep of four trials that nobody disturbed."""
    root = Path(shutil.copytree(small, small.with_name("searched")))
    search(root)
    return root


@pytest.fixture
def project(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "project"))


def open_sweep(root: Path, **options) -> Sweep:
    given = {"experiment": "true_batch_001", "space": root / "space.yaml", "trials": 4, "folds": (0,), **options}
    return Sweep(stage.make_plan(load(root / "params.yaml"), Paths(root), stage.Options(**given)))


def test_a_sweep_leaves_a_table_a_figure_and_no_checkpoints(searched):
    reports = Paths(searched).sweep(NAME)
    lines = (reports / "trials.csv").read_text().splitlines()
    assert lines[0] == "trial,state,val_correlation,epochs,training.learning_rate,model.expansion"
    assert len(lines) == 5
    assert (reports / "sweep.png").stat().st_size > 10_000
    sweep = open_sweep(searched)
    assert sweep.is_over()
    assert not list(sweep.plan.folder.glob("trials/*"))
    assert not (searched / "data" / "experiments").exists(), "a sweep publishes no fold"


@pytest.mark.slow
def test_a_killed_sweep_gives_the_trials_of_an_undisturbed_one(project, searched):
    moments, kills = random.Random(3), 0
    while True:
        process = start(search, project, kill=moments.randint(5, 30))
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, (project / "stderr.txt").read_text()
        kills += 1
    assert kills >= 3
    assert "continues in epoch" in (project / "stderr.txt").read_text()
    assert facts(open_sweep(project)) == facts(open_sweep(searched))


def test_a_trial_scores_what_a_training_of_its_settings_scores(searched, project, monkeypatch):
    best = open_sweep(searched).study.best_trial
    config = apply(load(project / "params.yaml"), "true_batch_001", best.params, "test")
    monkeypatch.setattr(tracking, "start_training_run", lambda *_: Recorder())
    train.train_fold(config, Paths(project), "true_batch_001", 0)
    assert read_info(Paths(project).fold("true_batch_001", 0)).scores["val_correlation"] == best.value


def test_the_value_of_several_folds_is_their_mean(project):
    search(project, trials=1, folds=(0, 2))
    (trial,) = open_sweep(project, trials=1, folds=(0, 2)).trials()
    assert trial.value == pytest.approx(sum(trial.user_attrs["folds"].values()) / 2)
    assert set(trial.user_attrs["folds"]) == {"0", "2"}
    assert sorted(trial.intermediate_values) == list(range(6))


def test_settings_that_cannot_be_trained_are_a_bad_trial_and_no_end(project):
    parameters = {"training.learning_rate": {"choices": [1e-2, 1e30]}}
    (project / "space.yaml").write_text(yaml.safe_dump({"sampler": "grid", "parameters": parameters}))
    search(project)
    states = {trial.params["training.learning_rate"]: trial for trial in open_sweep(project).trials()}
    assert states[1e-2].state == TrialState.COMPLETE
    assert states[1e30].state == TrialState.PRUNED
    assert "training diverged" in states[1e30].user_attrs["reason"]
    assert "failed" in (Paths(project).sweep(NAME) / "trials.csv").read_text()


def test_a_sweep_of_hopeless_trials_says_so(project):
    parameters = {"training.learning_rate": {"choices": [1e29, 1e30]}}
    (project / "space.yaml").write_text(yaml.safe_dump({"sampler": "grid", "parameters": parameters}))
    with pytest.raises(PipelineError, match="none of its 2 trials could be trained to the end"):
        search(project)


def test_the_best_settings_become_an_experiment(searched):
    search(searched, best="tuned")
    best = open_sweep(searched).study.best_trial.params
    written = yaml.safe_load((searched / "conf" / "experiment" / "tuned.yaml").read_text())
    assert written["training"]["learning_rate"] == best["training.learning_rate"]
    assert written["model"]["expansion"] == best["model.expansion"]
    config = load(searched / "params.yaml")
    assert config.experiment("tuned").training.learning_rate == best["training.learning_rate"]
    assert "tuned-0" in config.pipeline.trainings
    with pytest.raises(ConfigError, match=r"tuned\.yaml: exists already"):
        search(searched, best="tuned")


def test_a_students_sweep_asks_for_its_teacher_first(project):
    with pytest.raises(CheckpointError, match="Train the teacher first: dvc repro train@true_batch_001-0"):
        search(project, experiment="distillation_001")
    assert not (project / ".sensorium" / "sweeps").exists()


def test_changed_settings_do_not_go_on_with_a_sweep(searched, tmp_path):
    root = Path(shutil.copytree(searched, tmp_path / "changed"))
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["experiments"]["true_batch_001"]["training"]["weight_decay"] = 0.5
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=f"sweep {NAME}: was begun with another settings"):
        open_sweep(root)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials", "0"], "--trials 0: must be 1 or more"),
        (["--name", "a/b"], "cannot name a sweep"),
        (["--best", "true_batch_001"], "exists already"),
        (["--folds", "9"], "fold '9': out of range"),
        (["--executor", "cloud"], "--executor 'cloud': does not exist"),
        (["--gpus-per-trial", "1"], "on this machine GPUs are leased by id"),
    ],
)
def test_a_bad_option_is_refused(project, monkeypatch, options, words):
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, ["sweep", "-e", "true_batch_001", *_ENTRY, *options])
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)
    assert "tuned" not in known_experiments(project)


def test_json_tells_all_trials(searched, monkeypatch, capsys):
    monkeypatch.chdir(searched)
    capsys.readouterr()
    search(searched, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [trial["trial"] for trial in told["trials"]] == [0, 1, 2, 3]
    assert told["best"]["val_correlation"] == max(
        t["val_correlation"] for t in told["trials"] if t["state"] == "complete"
    )


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_processes_are_started_on_an_executor(project, tmp_path, monkeypatch, executor):
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("SLURM_STAND_IN", str(tmp_path / "slurm"))
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'scheduler' / 'slurm'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SENSORIUM_TRACKING_TIMEOUT", "0")
    search(project, jobs=2, trials=2, executor=executor)
    sweep = open_sweep(project, trials=2)
    assert count(sweep, TrialState.COMPLETE) == 2
    assert len(list((sweep.plan.folder / "logs").glob("*.log"))) == 2


class Recorded(Recorder):
    def close(self, status):
        Path("closed.txt").write_text(status)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_judge_ends_a_training_between_two_epochs(project, monkeypatch, devices):
    monkeypatch.chdir(project)
    config = load(project / "params.yaml")
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"devices": devices})})
    trial = train.Trial("trial 0", project / "checkpoints", recorded, after_two_epochs)
    assert train.try_out(config, Paths(project), "true_batch_001", 0, trial) is None
    assert Path("closed.txt").read_text() == "KILLED"
    assert not Paths(project).fold("true_batch_001", 0).exists()


def after_two_epochs(rows, *, over):
    assert not over
    return len(rows) == 2


def recorded(_fingerprint):
    return Recorded()


def test_trials_are_runs_below_the_sweeps_run(project, monkeypatch):
    monkeypatch.setattr(recorder, "ensure_running", lambda _store, **_options: None)
    monkeypatch.setattr(recorder, "_await_upload", lambda log, store, _: Uploader(log, store).upload())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, paths = load(project / "params.yaml"), Paths(project)
    options = stage.Options("true_batch_001", project / "space.yaml", 3, (0,))
    stage.search(config, paths, options)
    client = TrackingStore.of(paths).client()
    runs = client.search_runs([client.get_experiment_by_name(leaderboard_name(config.preset)).experiment_id])
    (parent,) = [run for run in runs if run.data.tags["sensorium.role"] == "sweep"]
    trials = {run.info.run_name: run for run in runs if run.data.tags["sensorium.role"] == "trial"}
    assert parent.info.run_name == NAME
    assert parent.info.status == "FINISHED"
    assert set(trials) == {"trial 0", "trial 1", "trial 2"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {parent.info.run_id}
    best = open_sweep(project, trials=3).study.best_trial
    assert parent.data.metrics["val/correlation"] == best.value
    told = trials[f"trial {best.number}"].data.params
    assert float(told["training.learning_rate"]) == best.params["training.learning_rate"]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"sweep.png", "trials.csv"}
    assert len(runs) == 4, "and no other run"
    assert "best validation correlation" in parent.data.tags["mlflow.note.content"]
    assert "Trial 0 of the sweep" in trials["trial 0"].data.tags["mlflow.note.content"]
