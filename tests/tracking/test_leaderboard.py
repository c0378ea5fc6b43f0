"""One table of all executions: what its rows are called, what they tell, and how MLflow's UI opens it."""

import json
import re

import pytest

from sensorium.config import parse
from sensorium.errors import TrackingError
from sensorium.files import write_json
from sensorium.mice import short_names
from sensorium.tracking import start_training_run
from sensorium.tracking.descriptions import differences, rounded, run_name
from sensorium.tracking.leaderboard import leaderboard_name, refresh
from sensorium.tracking.run_links import find_run
from sensorium.tracking.ui import create_app
from sensorium.tracking.views import unpacked

EXPERIMENT = "true_batch_001"
MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"


def changed(project, **training):
    """The settings with a recipe of their own."""
    tree = project.config.model_dump(mode="json")
    tree["experiments"][EXPERIMENT]["training"] |= training
    return parse(tree, "changed.yaml")


def train(project, fingerprint, config=None, folds=1, score=0.5):
    for fold in range(folds):
        run = start_training_run(config or project.config, project.paths, EXPERIMENT, fold, f"{fingerprint}{fold}")
        run.metrics({"val/correlation": score, f"val/correlation/{MOUSE}": score}, 1)
        run.close("FINISHED")


def rows(project, role="experiment"):
    client = project.store.client()
    found = client.search_runs(["0"], f"tags.`sensorium.role` = '{role}'", order_by=["attributes.start_time ASC"])
    return list(found)


def names(project):
    return [run.info.run_name for run in rows(project)]


def test_executions_are_named_by_what_differs_from_the_first(project, inline, monkeypatch):
    train(project, "a")
    train(project, "b", changed(project, learning_rate=0.005))
    train(project, "c", changed(project, learning_rate=0.005, ema_decay=0.9))
    train(project, "d")
    monkeypatch.setenv("DVC_EXP_NAME", "gusty-lamb")
    train(project, "e", changed(project, learning_rate=0.02))
    train(project, "f")
    assert names(project) == [
        EXPERIMENT,
        f"{EXPERIMENT} learning_rate=0.005",
        f"{EXPERIMENT} learning_rate=0.005 ema_decay=0.9",
        f"{EXPERIMENT} #2",
        f"{EXPERIMENT} learning_rate=0.02",
        f"{EXPERIMENT} gusty-lamb",
    ]
    queued = rows(project)[-1].data.tags
    assert queued["sensorium.dvc.experiment"] == "gusty-lamb"
    assert queued["sensorium.architecture"] == "dwiseneuro"


@pytest.mark.parametrize(
    ("told", "taken", "dvc", "name"),
    [
        ([], [], None, "slow"),
        ([], ["slow", "slow #2"], None, "slow #3"),
        (["a=1", "b=2", "c=3", "d=4", "e=5"], [], None, "slow a=1 b=2 c=3 +2"),
        (["a=1"], ["slow a=1"], "gusty-lamb", "slow a=1 gusty-lamb"),
        ([], [], "gusty-lamb", "slow gusty-lamb"),
    ],
)
def test_names_tell_executions_apart(told, taken, dvc, name):
    assert run_name("slow", told, taken, dvc) == name


def test_a_setting_is_called_by_its_last_part_where_no_other_shares_it():
    reference = {"model.canvas": "[8, 8]", "training.rate": "1", "model.rate": "1"}
    assert differences({**reference, "model.canvas": "[9, 9]"}, reference) == ["canvas=[9, 9]"]
    assert differences({**reference, "model.rate": "2"}, reference) == ["model.rate=2"]
    assert differences({"training.rate": "1", "model.rate": "1"}, reference) == ["canvas=none"]


def test_numbers_keep_the_digits_that_mean_something():
    assert [rounded(value) for value in (0.523456789, -0.0004567, 123.456789, 0.0)] == [0.5235, -0.0005, 123.5, 0.0]


def test_short_names_tell_mice_apart_or_are_not_used():
    assert short_names([MOUSE]) == {MOUSE: "29515-10-12"}
    twins = ["dynamic1-2-3-Video-a", "dynamic1-2-3-Video-b"]
    assert short_names(twins) == {mouse: mouse for mouse in twins}


def test_mlflows_own_experiment_becomes_the_leaderboard_and_stays(project, inline):
    """Where `mlflow run` puts its runs; an empty `Default` comes into being in no store."""
    train(project, "a")
    client = project.store.client()
    assert {e.experiment_id: e.name for e in client.search_experiments()} == {"0": "sensorium-demo"}
    assert client.get_experiment("0").tags["mlflow.experimentKind"] == "custom_model_development"
    other = project.config.model_copy(update={"preset": "my preset"})
    assert leaderboard_name(other.preset) == "sensorium-my-preset"
    train(project, "b", other)
    assert {e.name for e in project.store.client().search_experiments()} == {"sensorium-demo", "sensorium-my-preset"}


def test_the_page_lists_the_best_and_has_a_column_for_what_differs(project, inline):
    train(project, "a", folds=3)
    train(project, "b", changed(project, learning_rate=0.005), folds=3, score=0.6)
    client = project.store.client()
    for row, score in zip(rows(project), (0.51, 0.61), strict=True):
        client.log_metric(row.info.run_id, "score", score)
        client.log_metric(row.info.run_id, "score/vs_other", 0.01)
    refresh(client, "0")
    tags = client.get_experiment("0").tags
    told = tags["mlflow.note.content"]
    assert told.startswith(
        f"Best 0.610: {EXPERIMENT} learning_rate=0.005; 2 executions. [Leaderboard](#/experiments/0/"
    )
    assert [line.split("](")[0] for line in told.splitlines() if line.startswith("| [")] == [
        f"| [{EXPERIMENT} learning_rate=0.005",
        f"| [{EXPERIMENT}",
    ]
    state = unpacked(tags["mlflow.sharedViewState.leaderboard"])
    assert state["orderByKey"] == "metrics.`score`"
    shown = state["selectedColumns"]
    assert shown[:3] == ["metrics.`score`", "metrics.`score/ci_low`", "metrics.`score/ci_high`"]
    assert {"metrics.`score/vs_other`", "params.`training.learning_rate`", "attributes.`Version`"} <= set(shown)
    assert not any("ema_decay" in column for column in shown)
    assert "val/correlation/29515-10-12" in {chart["metricKey"] for chart in state["compareRunCharts"]}
    assert unpacked(tags["mlflow.sharedViewState.folds"])["orderByKey"] == "attributes.start_time"


def test_runs_are_described_and_a_description_of_ones_own_stays(project, inline):
    train(project, "a", folds=2)
    (row,), fold = rows(project), rows(project, "fold")[0]
    told = fold.data.tags["mlflow.note.content"]
    assert told.startswith("Fold 0 of true_batch_001, held out for validation. Validation correlation **0.500**")
    told = row.data.tags["mlflow.note.content"]
    assert "Validation correlation 0.500 [0.500, 0.500], mean of 2 of 3 folds." in told
    assert "Trained with dwiseneuro, seed 0" in told
    client = project.store.client()
    client.set_tag(row.info.run_id, "mlflow.note.content", f"Mine. {told}")
    train(project, "a", folds=3)
    assert client.get_run(row.info.run_id).data.tags["mlflow.note.content"] == f"Mine. {told}"


# -- stores from before, with an MLflow experiment per experiment ---------------------------------


@pytest.fixture
def legacy(project):
    """A store in which the fold 0 was killed; returns a function that makes runs of that layout."""
    client = project.store.client()
    experiment = client.create_experiment(EXPERIMENT, artifact_location=(project.paths.root / "old").as_uri())
    tags = {"sensorium.role": "experiment", "sensorium.experiment": EXPERIMENT}
    parent = client.create_run(experiment, run_name=EXPERIMENT, tags=tags).info.run_id

    def make(fingerprint, status, fold=0):
        own = {"sensorium.role": "fold", "sensorium.fold": str(fold), "mlflow.parentRunId": parent}
        run = client.create_run(experiment, tags=tags | own | {"sensorium.fingerprint": fingerprint})
        client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    return make


def test_an_older_run_is_found_by_the_fold_on_disk(project, legacy):
    from sensorium.lineage import fingerprint

    project.train(EXPERIMENT)
    known = fingerprint({"experiment": EXPERIMENT, "fold": 1, "seed": 0})
    run_id = legacy(known, "FINISHED", fold=1)
    link = {"tracking_uri": "sqlite:///mlflow.db", "run_id": "a" * 32, "journal": None}
    write_json(project.paths.run_link(EXPERIMENT, 1), link)
    assert find_run(project.store.client(), project.paths, EXPERIMENT, 1) == run_id


def test_an_older_training_goes_on_where_it_was(project, inline, legacy):
    run_id = legacy("a0", "KILLED")
    train(project, "a")
    client = project.store.client()
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert (
        parent.info.experiment_id == run.info.experiment_id == client.get_experiment_by_name(EXPERIMENT).experiment_id
    )
    assert parent.data.metrics["val/correlation/mean"] == 0.5


# -- the server of `make ui` ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")  # MLflow's own server uses it
def test_the_first_page_opens_tables_with_scores(project, inline, monkeypatch):
    from mlflow import server

    train(project, "a")
    monkeypatch.setenv(server.BACKEND_STORE_URI_ENV_VAR, project.store.uri)
    monkeypatch.setitem(server.app.view_functions, "serve", None)  # put back afterwards
    create_app()
    page = server.app.test_client().get("/").get_data(as_text=True)
    items = json.loads(re.search(r"of (\[\[.*?\]\])\) if", page)[1])
    state = json.loads(dict(items)['MLflowLocalStorage-1.1-ExperimentPage-["0"]-ReactComponentState'])
    assert state["selectedColumns"][0] == "metrics.`score`"
    assert page.index("<script>for") < page.index("<script defer")


def test_a_damaged_run_id_names_the_link(project):
    path = project.paths.run_link(EXPERIMENT, 0)
    path.parent.mkdir(parents=True)
    write_json(path, {"tracking_uri": "sqlite:///mlflow.db", "run_id": "a5002d124`694227b69b92be498c8c15"})
    with pytest.raises(TrackingError, match=r"fold_0\.json: run_id.*\n.*dvc "):
        find_run(project.store.client(), project.paths, EXPERIMENT, 0)
