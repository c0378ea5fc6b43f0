"""The report: complete, self-contained, equal for equal inputs."""

import base64
import re

import numpy as np
import pandas as pd
import pytest

from sensorium.errors import PredictionError
from sensorium.report.material import bootstrap, choose_neurons
from sensorium.stages import evaluate, report

TEACHER, STUDENT = "true_batch_001", "distillation_001"
FIGURES = {"scores.png", "neurons.png", "traces.png", "training.png", "folds.png"}


@pytest.fixture
def reported(tiny_config, project, make_predictions, pretend_training):
    make_predictions(TEACHER, "folds", noise=3.0, seed=1)
    make_predictions(STUDENT, "folds", noise=2.0, seed=2)
    pretend_training()
    evaluate.run(tiny_config, project)
    report.run(tiny_config, project)
    return project.report


def test_the_page_holds_every_figure_and_fetches_nothing(reported):
    page = (reported / "index.html").read_text()
    assert {path.name for path in reported.iterdir()} == {"index.html", *FIGURES}
    embedded = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert sorted(embedded) == sorted((reported / name).read_bytes() for name in FIGURES)
    assert "http" not in page.replace("https://jfly", "")
    assert "<script" not in page


def test_the_page_names_scores_mice_and_inputs(reported, tiny_config):
    page = (reported / "index.html").read_text()
    for mouse in tiny_config.dataset.mice:
        assert mouse.split("-Video")[0].removeprefix("dynamic") in page
    for word in (TEACHER, STUDENT, "ensemble", "ceiling", "0" * 64, "1" * 64, "frames 10 to 59"):
        assert word in page


def test_equal_inputs_give_an_equal_report(reported, tiny_config, project):
    before = {path.name: path.read_bytes() for path in reported.iterdir()}
    report.run(tiny_config, project)
    assert {path.name: path.read_bytes() for path in reported.iterdir()} == before


def test_weights_without_a_history_are_scored_and_reported(tiny_config, project, make_predictions, pretend_training):
    """Imported weights bring the log of their own program, or none; there is no curve to draw then."""
    make_predictions(TEACHER, "folds", noise=3.0, seed=1)
    make_predictions(STUDENT, "folds", noise=2.0, seed=2)
    pretend_training()
    for fold in project.experiment(TEACHER).iterdir():
        (fold / "history.csv").rename(fold / "log.csv")
    evaluate.run(tiny_config, project)
    curves = pd.read_csv(project.evaluation / "plots" / "training.csv")
    assert set(curves["source"]) == {STUDENT}
    for history in project.experiments.rglob("history.csv"):
        history.unlink()
    evaluate.run(tiny_config, project)
    report.run(tiny_config, project)
    assert {path.name for path in project.report.iterdir()} == {"index.html", *FIGURES}


def test_nothing_is_reported_before_evaluation(tiny_config, project, make_predictions, pretend_training):
    make_predictions(TEACHER, "folds")
    make_predictions(STUDENT, "folds")
    with pytest.raises(PredictionError, match=r"scores\.csv: the file does not exist"):
        report.run(tiny_config, project)
    assert not project.report.exists()


def test_neurons_are_chosen_by_rank():
    values = np.random.default_rng(0).permutation(101) / 100
    chosen = choose_neurons(values)
    assert [values[chosen[label]] for label in ("good", "median", "bad")] == [0.95, 0.5, 0.05]


def test_bootstrap_intervals_cover_the_mean_and_repeat():
    values = np.random.default_rng(1).normal(0.3, 0.1, 400)
    low, high = bootstrap(values, 0, 1, 2)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.2)
    assert bootstrap(values, 0, 1, 2) == (low, high)
    assert bootstrap(values, 0, 1, 3) != (low, high)
