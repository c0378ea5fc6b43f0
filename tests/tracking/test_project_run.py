"""What MLflow knows of a run that `mlflow run` made for a verb."""

import sys

import pytest

from sensorium.cli import main
from sensorium.commands import promote as stage
from sensorium.stages import register
from sensorium.tracking.project_run import run_name


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("predict --experiment nobody --split folds", "predict experiment=nobody split=folds"),
        ("project run evaluate", "run evaluate"),
        ("promote --margin 0.0 --new-data", "promote margin=0.0 new-data"),
        ("compare distillation_001 true_batch_001", "compare distillation_001 true_batch_001"),
        ("sync", "sync"),
    ],
)
def test_a_run_is_named_after_verb_and_target(command, name):
    assert run_name(command.split()) == name


@pytest.fixture
def adopted(project, monkeypatch):
    """Id of a run as `mlflow run` leaves it."""
    made = project.store.client().create_run("0", run_name="languid-quail-307")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    return made.info.run_id


def test_a_refused_command_leaves_the_reason_on_its_run(project, adopted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sensorium", "predict", "--experiment", "nobody", "--split", "folds"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    run = project.store.client().get_run(adopted)
    assert run.info.run_name == "predict experiment=nobody split=folds"
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("experiment 'nobody': not in params.yaml.")
    assert note in capsys.readouterr().err


def test_wrong_usage_is_the_description_of_the_run(project, adopted, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sensorium", "promote", "--margin", "abc"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    run = project.store.client().get_run(adopted)
    assert run.info.run_name == "promote margin=abc"
    assert run.data.tags["mlflow.note.content"].startswith("Invalid value for '--margin'")


def test_credentials_stay_out_of_the_run(project, adopted, monkeypatch):
    client = project.store.client()
    client.set_tag(adopted, "mlflow.source.git.repoURL", "https://me:planted-password@host/x.git")
    monkeypatch.setattr(sys, "argv", ["sensorium", "predict", "-e", "https://me:planted-password@host", "-s", "folds"])
    with pytest.raises(SystemExit):
        main()
    run = client.get_run(adopted)
    assert run.data.tags["mlflow.source.git.repoURL"] == "https://me:***@host/x.git"
    assert "planted-password" not in str(run.to_dictionary())


def test_a_training_keeps_the_name_that_it_gave(project, adopted, monkeypatch):
    client = project.store.client()
    client.set_tag(adopted, "sensorium.role", "fold")
    monkeypatch.setattr(sys, "argv", ["sensorium", "train", "--experiment", "nobody", "--folds", "0"])
    with pytest.raises(SystemExit):
        main()
    run = client.get_run(adopted)
    assert run.info.run_name == "languid-quail-307"
    assert "nobody" in run.data.tags["mlflow.note.content"]


def test_what_a_verb_measured_is_a_metric_of_its_run(project, adopted):
    for seed, value in enumerate((0.3, 0.35)):
        for name in ("true_batch_001", "distillation_001"):
            project.train(name, seed=seed)
        project.score(value)
        register.run(project.config, project.paths)
        stage.run(project.paths, None, 0.0, False)
    metrics = project.store.client().get_run(adopted).data.metrics
    assert metrics["difference/mean"] == pytest.approx(0.05)
    assert metrics["difference/low"] <= metrics["difference/mean"] <= metrics["difference/high"]


def test_a_stage_tells_the_verb_that_runs_it_why_it_was_refused(project, tmp_path, monkeypatch):
    monkeypatch.setenv("SENSORIUM_ERROR_FILE", str(tmp_path / "reason"))
    monkeypatch.setattr(sys, "argv", ["sensorium", "train", "-e", "nobody"])
    with pytest.raises(SystemExit):
        main()
    assert (tmp_path / "reason").read_text().startswith("experiment 'nobody': not in params.yaml.")
