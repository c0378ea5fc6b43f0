"""Evaluation and report with other experiments than a teacher and a student."""

import json

import numpy as np
import pandas as pd
import pytest
from prediction_runs import STUDENT, TEACHER, TIER, train
from tiny import tiny_tree

from sensorium.commands import compare
from sensorium.config import parse
from sensorium.evaluation import sources
from sensorium.registry.pair import pair_source, scores_by_role
from sensorium.stages import ensemble, evaluate, report

OTHERS = [f"baseline_{number:03}" for number in range(1, 11)]


@pytest.fixture
def many_config(raw_dataset):
    """Twelve experiments; three of them are the ensemble, and its members are not the registered pair."""
    tree = tiny_tree(str(raw_dataset))
    tree["experiments"] |= dict.fromkeys(OTHERS, tree["experiments"][TEACHER])
    tree["ensemble"]["members"] = [TEACHER, OTHERS[0], STUDENT]
    del tree["pipeline"]
    return parse(tree, "twelve experiments")


@pytest.fixture
def evaluated(many_config, project, make_predictions):
    for number, name in enumerate(many_config.experiments):
        make_predictions(name, "folds", noise=2.0 + number, seed=number)
        for fold in many_config.folds.train.values():
            folder = project.fold(name, fold)
            folder.mkdir(parents=True)
            rows = "".join(
                f"{e},{5 - 0.9 * e + 0.2 * number},{0.1 * e + 0.01 * (fold + number)}\n" for e in range(3 + number % 4)
            )
            (folder / "history.csv").write_text(f"epoch,train_loss,val_correlation\n{rows}")
    evaluate.run(many_config, project)
    return project.evaluation


def test_every_experiment_is_scored_by_its_name(evaluated, many_config):
    scores = json.loads((evaluated / "overall.json").read_text())
    assert set(scores) == {*many_config.experiments, "ensemble", "pair", "ceiling"}
    assert all(isinstance(score, float) for score in scores.values())
    assert scores["ceiling"] > scores["ensemble"] > scores[OTHERS[0]] > scores[OTHERS[-1]]
    for name, column in (("training", "epoch"), ("mice", "mouse"), ("neurons", "share")):
        plot = pd.read_csv(evaluated / "plots" / f"{name}.csv")
        assert {*many_config.experiments} <= set(plot["source"])
        assert plot[column].notna().all()


def test_the_report_shows_every_experiment(evaluated, many_config, project):
    report.run(many_config, project)
    page = (project.report / "index.html").read_text()
    for name in many_config.experiments:
        assert f"<th>{name}</th>" in page
        assert f"weights of {name}" in page
    assert "mean of baseline_001, distillation_001, true_batch_001" in page


def test_the_pair_has_the_score_of_its_own_mean(evaluated, many_config, project, tiny_config):
    """The ensemble's may be better than that of the two models that are registered and served."""
    assert pair_source(many_config) == sources.PAIR
    found = pd.read_csv(evaluated / "scores.csv").query("mouse == 'all' and tier == 'all' and fold == 'all'")
    evaluate.run(tiny_config, project)  # with the same two experiments as its ensemble
    alone = pd.read_csv(evaluated / "scores.csv").query("mouse == 'all' and tier == 'all' and fold == 'all'")
    scores = [table.set_index("source")["single_trial_correlation"] for table in (found, alone)]
    assert scores[0]["pair"] == scores[1]["ensemble"]
    assert scores[0]["pair"] != scores[0]["ensemble"]


def test_a_score_of_another_experiment_does_not_change_what_is_told_of_the_pair(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    roles = {TEACHER: "teacher", STUDENT: "student", "pair": "ensemble"}
    before = scores_by_role(metrics, roles)
    assert before["single_trial_correlation"]["ensemble"] == metrics["single_trial_correlation"]["pair"]
    assert set(before["single_trial_correlation"]) == {"teacher", "student", "ensemble", "ceiling"}
    metrics["single_trial_correlation"][OTHERS[3]] += 0.1
    assert scores_by_role(metrics, roles) == before


def test_the_weights_file_changes_with_the_members_alone(evaluated, many_config, project, make_predictions):
    """It stands for the members' folds in dvc.yaml."""

    def retrained(name):
        folder = make_predictions(name, "folds", seed=77)
        provenance = json.loads((folder / "provenance.json").read_text())
        for part in provenance["assignments"]:
            part["weights"][name] = ["2" * 64]
        (folder / "provenance.json").write_text(json.dumps(provenance))
        evaluate.run(many_config, project)
        return (evaluated / "weights.json").read_bytes()

    before = (evaluated / "weights.json").read_bytes()
    assert retrained(OTHERS[1]) == before
    assert retrained(OTHERS[0]) != before


def test_comparing_all_with_the_best(evaluated, many_config, project, capsys):
    few = many_config.model_copy(
        update={"experiments": {name: many_config.experiments[name] for name in (TEACHER, *OTHERS[:2])}}
    )
    compare.run(few, project)
    shown = capsys.readouterr().out
    assert f"minus {TEACHER}" in shown
    assert all(name in shown for name in OTHERS[:2])
    assert "worse" in shown


def test_an_ensemble_beside_the_registered_pair(trained, many_config, stores, monkeypatch):
    """Members that are not registered are taken as they are trained, and fitted weights from the evaluation."""
    names = sorted(many_config.ensemble.members)
    for fold in many_config.folds.train.values():
        train(many_config, trained, stores, OTHERS[0], fold)
    pair = {e: [trained.fold(e, fold) for fold in range(3)] for e in (TEACHER, STUDENT)}
    monkeypatch.setattr("sensorium.registry.pair.load_pair", lambda pin, paths: pair)
    monkeypatch.setattr("sensorium.registry.pair.pinned_weights", lambda pin: {TEACHER: 1.0, STUDENT: 0.0})
    folder = trained.predictions(",".join(names), TIER)
    ensemble.run(many_config, trained, ",".join(names), TIER, trained.pair_pin)
    weights = [json.loads((folder / "provenance.json").read_text())["assignments"][0]["weights"]]
    assert list(weights[0]) == names
    path = f"{stores[0].name}/{int(np.flatnonzero(stores[0].tiers == TIER)[0])}.npy"
    equal = np.load(folder / path)
    fitted = many_config.model_copy(update={"ensemble": many_config.ensemble.model_copy(update={"weights": "fitted"})})
    trained.evaluation.mkdir(parents=True)
    chosen = dict(zip(names, (1.0, 0.0, 0.0), strict=True))
    (trained.evaluation / "weights.json").write_text(json.dumps({"weights": chosen}))
    ensemble.run(fitted, trained, ",".join(names), TIER, trained.pair_pin)
    assert json.loads((folder / "provenance.json").read_text())["ensemble_weights"] == chosen
    assert not np.allclose(np.load(folder / path), equal)
