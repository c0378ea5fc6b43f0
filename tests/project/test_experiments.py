"""Experiments as files: what composing, adding and mistakes do."""

import shutil
import subprocess

import pytest
import yaml
from tiny import ROOT

from sensorium.commands import experiment as stage
from sensorium.config import load
from sensorium.errors import ConfigError
from sensorium.experiments import add_experiment, compose, update_pipeline, write_experiment, write_params
from sensorium.paths import Paths


@pytest.fixture
def project(tmp_path):
    """A project's settings, in a folder of its own."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "params.yaml").write_text(compose(tmp_path, "demo"))
    return tmp_path


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.yaml"))}


def write(project, name, text, header=None):
    path = project / "conf" / "experiment" / f"{name}.yaml"
    path.write_text(f"# @package experiments.{header or name}\n{text}")
    return path


BASE = "defaults:\n- true_batch_001@_here_\n- _self_\n"


def test_a_new_experiment_is_one_file_and_its_name_in_the_preset(project):
    before = snapshot(project)
    stage.run_new(Paths(project), "slow", "distillation_001", ["training.learning_rate=0.005"])
    changed = {path.name for path, content in snapshot(project).items() if before.get(path) != content}
    assert changed == {"slow.yaml", "demo.yaml", "params.yaml"}
    settings = load(project / "params.yaml")
    slow, base = settings.experiment("slow"), settings.experiment("distillation_001")
    assert slow.training.learning_rate == 0.005
    assert slow.model_copy(update={"training": base.training}) == base
    assert settings.pipeline is not None
    assert settings.pipeline.trainings["slow-1"].depends_on == "data/experiments/true_batch_001/fold_1"
    assert (project / "params.yaml").read_text() == compose(project, "demo")


def test_it_has_the_scale_of_the_preset(project):
    write_experiment(project, "wide", "true_batch_001", {"training.batch_size": 4})
    small, full = (
        yaml.safe_load(compose(project, p, ["experiment=[wide]", "ensemble.members=[wide,wide]"]))
        for p in ("demo", "competition")
    )
    assert len(full["experiments"]["wide"]["model"]["features"]) > len(
        small["experiments"]["wide"]["model"]["features"]
    )
    assert full["experiments"]["wide"]["training"]["batch_size"] == 4


def test_a_student_of_a_student_waits_for_its_teacher(project):
    stage.run_new(Paths(project), "third", "distillation_001", ["distillation.teacher=distillation_001"])
    pipeline = load(project / "params.yaml").pipeline
    assert pipeline is not None
    assert pipeline.trainings["third-0"].depends_on == "data/experiments/distillation_001/fold_0"
    assert pipeline.trainings["true_batch_001-0"].depends_on == "data/folds"


def test_what_was_edited_by_hand_stays(project):
    params = project / "params.yaml"
    edited = params.read_text().replace("learning_rate: 0.05", "learning_rate: 0.07  # tried on Monday", 1)
    params.write_text(edited)
    stage.run_new(Paths(project), "slow", "true_batch_001", [])
    assert "learning_rate: 0.07  # tried on Monday" in params.read_text()
    assert load(params).experiment("slow").training.learning_rate == 0.05


def test_composing_never_overwrites_what_git_does_not_hold(project):
    params = project / "params.yaml"
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "init", "-q"], cwd=project, check=True)
    subprocess.run([*git, "add", "."], cwd=project, check=True)
    subprocess.run([*git, "commit", "-qm", "all"], cwd=project, check=True)
    params.write_text(params.read_text().replace("seed: 0", "seed: 7"))
    with pytest.raises(ConfigError, match="not committed"):
        write_params(project, "demo", [], force=False)
    assert "seed: 7" in params.read_text()
    subprocess.run([*git, "commit", "-qam", "seed"], cwd=project, check=True)
    write_params(project, "demo", ["seed=9"], force=False)
    assert "seed: 9" in params.read_text()
    write_params(project, "demo", [], force=True)
    assert params.read_text() == compose(project, "demo")


def test_tables_follow_an_edited_file_on_request(project):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("    fold_2: 2\n", ""))
    with pytest.raises(ConfigError, match=r"pipeline: .*sensorium config --update"):
        load(params)
    assert update_pipeline(project)
    assert not update_pipeline(project)
    pipeline = load(params).pipeline
    assert pipeline is not None
    assert not [name for name in pipeline.trainings if name.endswith("-2")]


@pytest.mark.parametrize(
    ("name", "base", "settings", "words"),
    [
        ("x", "tru_batch_001", [], ["'tru_batch_001'", "Did you mean 'true_batch_001'"]),
        ("1x", "true_batch_001", [], ["'1x'", "begin with a letter"]),
        ("a,b", "true_batch_001", [], ["'a,b'"]),
        ("a.b", "true_batch_001", [], ["'a.b'"]),
        ("True_Batch_001", "true_batch_001", [], ["exists already"]),
        ("x" * 80, "true_batch_001", [], ["at most 64"]),
        ("ensemble", "true_batch_001", [], ["'ensemble' means something else"]),
        ("x", "true_batch_001", ["training.learning_rat=1"], ["learning_rat", "Did you mean 'learning_rate'"]),
        ("x", "true_batch_001", ["training.learning_rate"], ["-S training.learning_rate"]),
        ("x", "true_batch_001", ["distillation={teacher: y, ratio: 0.3}"], ["'y' is no experiment"]),
        ("x", "true_batch_001", ["distillation={teacher: x, ratio: 0.3}"], ["x learns from x"]),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(project, name, base, settings, words):
    before = snapshot(project)
    with pytest.raises(ConfigError) as fault:
        stage.run_new(Paths(project), name, base, settings)
    for word in words:
        assert word in str(fault.value)
    assert snapshot(project) == before


@pytest.mark.parametrize(
    ("name", "text", "header", "words"),
    [
        ("x", "defaults:\n- nothing@_here_\n- _self_\n", None, ["experiment/nothing", "Choose one of"]),
        ("x", "defaults:\n- x@_here_\n- _self_\n", None, ["based on itself"]),
        ("x", BASE, "true_batch_001", ["x.yaml", "describes true_batch_001, not x"]),
        ("x", "training: [\n", None, ["x.yaml"]),
        ("9x", BASE, None, ["'9x' cannot name an experiment"]),
        ("True_Batch_001", BASE, None, ["rue_batch_001.yaml", "upper and lower case alone"]),
    ],
)
def test_a_file_that_does_not_fit_is_named(project, name, text, header, words):
    write(project, name, text, header)
    before = snapshot(project)
    with pytest.raises(ConfigError) as fault:
        add_experiment(project, name)
    for word in words:
        assert word in str(fault.value)
    assert snapshot(project) == before


def test_a_file_without_a_header_is_named(project):
    (project / "conf" / "experiment" / "x.yaml").write_text(BASE)
    with pytest.raises(ConfigError, match=r"its first line does not name it\.\nBegin the file with: # @package"):
        compose(project, "demo")


def test_circles_of_teachers_are_refused(project):
    for name, teacher in (("a", "b"), ("b", "a")):
        write(project, name, f"{BASE}distillation: {{teacher: {teacher}, ratio: 0.3}}\n")
    text = compose(project, "demo", ["experiment=[a,b]", "ensemble.members=[a,b]", "registry={teacher: a, student: b}"])
    (project / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="a learns from b learns from a"):
        load(project / "params.yaml")
