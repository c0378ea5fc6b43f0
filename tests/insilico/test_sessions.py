"""The verbs: what they write, how they go on after a kill, what they refuse, and their runs in MLflow."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import NEW_MOUSE, OLD_MOUSE

from sensorium.commands import insilico
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, PredictionError, TrackingError
from sensorium.inference.member import load_member
from sensorium.inference.sliding import SlidingPredictor, TrialInput
from sensorium.insilico import state, tuning
from sensorium.insilico.subject import ModelSubject, Weighted, mean_state
from sensorium.insilico.target import load_target
from sensorium.paths import Paths
from sensorium.tracking.insilico import ROLE_INSILICO
from sensorium.tracking.runs import PARENT, ROLE, everywhere, search
from sensorium.tracking.store import TrackingStore

EXPERIMENT = "true_batch_001"
"""What the fixture `project` has trained folds of."""


@pytest.fixture(autouse=True)
def few_gratings(monkeypatch):
    """Gratings of one pair of frequencies."""
    few = tuning.Gratings([0.0, 90.0, 180.0, 270.0], (1.0,), (2.0,), (0.5,))
    monkeypatch.setattr(tuning.Gratings, "every", lambda count: few)


@pytest.fixture
def place(project, tmp_path):
    """A private project that shares stores and models."""
    (tmp_path / "data").symlink_to(project.root / "data")
    return Paths(tmp_path)


@pytest.fixture
def subject(tiny_config, project, store):
    return load_target(tiny_config, project, EXPERIMENT, [0, 1]).subject(tiny_config, store)


def tune(config, place, **options):
    defaults = {"model": EXPERIMENT, "mouse": NEW_MOUSE, "folds": "0", "directions": 4, "neurons": "1,3-5"}
    insilico.run_tuning(config, place, **defaults | options)
    return place.root / "reports" / "insilico" / NEW_MOUSE / "tuning"


def test_the_subject_is_the_sliding_mean_of_its_models(tiny_config, project, store):
    first, second = (load_member(project.fold(EXPERIMENT, fold), store) for fold in (0, 1))
    video = torch.from_numpy(store.video(0).astype(np.float32))
    states = torch.from_numpy(store.states(0))
    trial = TrialInput("trial", video, states)
    own = [SlidingPredictor([one], 8, "32-true", torch.device("cpu")).predict([trial])[0] for one in (first, second)]
    parts = [Weighted(first, 0.25), Weighted(second, 0.75)]
    subject = ModelSubject(parts, mean_state(store), 8, torch.device("cpu"))
    expected = 0.25 * own[0] + 0.75 * own[1]
    with torch.no_grad():
        np.testing.assert_allclose(subject(video[None], states[None])[0], expected, rtol=2e-4, atol=1e-5)
        chosen = subject.select(np.array([4, 2, 6])).select(np.array([2, 0]))
        np.testing.assert_allclose(chosen(video[None], states[None])[0], expected[[6, 4]], rtol=2e-4, atol=1e-5)


def test_the_subject_carries_gradients_and_refuses_what_it_cannot_show(subject):
    movie = torch.full((1, subject.shortest, 18, 32), 100.0, requires_grad=True)
    subject(movie)[0, 0].sum().backward()
    assert movie.grad.abs().max() > 0
    with pytest.raises(PredictionError, match="too short"):
        subject(movie[:, 1:])
    with pytest.raises(PredictionError, match="not finite"):
        subject(torch.full((1, subject.shortest, 18, 32), torch.nan))


def test_tuning_writes_tables_figures_and_a_page(tiny_config, place, store, capsys):
    folder = tune(tiny_config, place)
    summary = pd.read_parquet(folder / "summary.parquet")
    assert summary["neuron"].tolist() == [1, 3, 4, 5]
    assert summary["unit_id"].tolist() == store.unit_ids[[1, 3, 4, 5]].tolist()
    assert {"osi", "dsi", "preferred_orientation", "speed"} <= set(summary.columns)
    assert len(pd.read_parquet(folder / "responses.parquet")) == 4 * len(tuning.Gratings.every(4).conditions)
    assert len(list(folder.glob("*.png"))) == 3
    page = (folder / "index.html").read_text()
    assert "Tuning of mouse" in page
    assert page.count("<img") == 3
    assert "Wrote" in capsys.readouterr().out
    assert not (place.state / "insilico" / NEW_MOUSE / "tuning").exists()


def test_receptive_fields_and_state(tiny_config, place):
    insilico.run_receptive_field(
        tiny_config, place, EXPERIMENT, NEW_MOUSE, "0-1", "0", noise_movies=2, gradient_movies=2
    )
    folder = place.root / "reports" / "insilico" / NEW_MOUSE
    fields = pd.read_parquet(folder / "receptive-field" / "summary.parquet")
    assert fields["method"].tolist() == ["noise", "gradient"] * 2
    assert np.load(folder / "receptive-field" / "gradient.npy").shape == (2, 18, 32)
    insilico.run_state(tiny_config, place, EXPERIMENT, NEW_MOUSE, "2", "0", trials=2)
    states = pd.read_parquet(folder / "state" / "states.parquet")
    assert len(states) == 2 * len(state.QUANTILES)
    median = states[states["quantile"] == 0.5]
    np.testing.assert_allclose(median["gain"], 1, rtol=1e-5)
    np.testing.assert_allclose(median["offset"], 0, atol=1e-4)
    assert states["value"].nunique() > len(state.QUANTILES)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_experiment_goes_on_after_its_last_batch(tiny_config, place, monkeypatch):
    whole = pd.read_parquet(tune(tiny_config, place, batch=1) / "summary.parquet")
    measured, limit = [], 2

    def counted(subject, advance, **options):
        if len(measured) == limit:
            raise Killed
        measured.append(subject)
        return measure(subject, advance, **options)

    measure = tuning.measure
    monkeypatch.setattr(tuning, "measure", counted)
    with pytest.raises(Killed):
        tune(tiny_config, place, batch=1)
    limit = 100
    folder = tune(tiny_config, place, batch=1)
    assert len(measured) == 4
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "summary.parquet"), whole)

    limit = 5
    with pytest.raises(Killed):
        tune(tiny_config, place, batch=1)
    limit = 100
    tune(tiny_config, place, batch=1, folds="1")  # another model: nothing of the first is used
    assert len(measured) == 9


@pytest.mark.parametrize(
    ("options", "fault", "message"),
    [
        ({"neurons": "8"}, ConfigError, "there is no neuron 8"),
        ({"neurons": "5-2"}, ConfigError, "the range 5-2 is empty"),
        ({"neurons": "1,x"}, ConfigError, "'x' is no number"),
        ({"directions": 5}, ConfigError, "must be even"),
        ({"mouse": "nobody"}, ConfigError, "not in params.yaml"),
        ({"mouse": OLD_MOUSE}, ConfigError, "has no readout"),
        ({"model": "nothing_001"}, ConfigError, "not in params.yaml"),
        ({"model": "models:/sensorium-student/7"}, TrackingError, "has no such version"),
        ({"model": "models:/sensorium-student@best"}, TrackingError, "has no such version"),
        ({"model": "models:sensorium"}, ConfigError, "not in params.yaml"),
        ({"model": "models:/sensorium"}, TrackingError, "names no version of a registered model"),
        ({"folds": "2"}, TrackingError, "not trained"),
    ],
)
def test_refused(tiny_config, place, options, fault, message):
    with pytest.raises(fault, match=message):
        tune(tiny_config, place, **options)
    assert not (place.root / "reports").exists()


class Blind:
    """Answers the same to everything."""

    neurons, shortest = 1, 1

    def __call__(self, movies, states=None):
        return torch.ones((len(movies), self.neurons, movies.shape[1])) + 0 * movies.sum((2, 3))[:, None]

    def select(self, neurons):
        return self


def test_dead_neurons(tiny_config, place, monkeypatch, capsys):
    monkeypatch.setattr("sensorium.insilico.target.Target.subject", lambda *_: Blind())
    with pytest.raises(PredictionError, match="these neurons respond the same to every grating: 2"):
        tune(tiny_config, place, neurons="2")
    with pytest.raises(PredictionError, match="these neurons have a gradient of zero: 2"):
        insilico.run_receptive_field(
            tiny_config, place, EXPERIMENT, NEW_MOUSE, "2", "0", noise_movies=1, gradient_movies=1
        )
    assert not (place.root / "reports").exists()


def test_the_noiseless_rate_takes_the_place_of_a_model(tiny_config, place):
    folder = tune(tiny_config, place, model="simulation", folds=None)
    assert (pd.read_parquet(folder / "summary.parquet")["osi"] > 0).all()
    none = tiny_config.model_copy(update={"synthetic": None})
    with pytest.raises(ConfigError, match="has no entry for mouse"):
        tune(none, place, model="simulation", folds=None)


def test_the_run_is_below_that_of_the_model(tiny_config, place, monkeypatch):
    client = TrackingStore.of(place).client()
    experiment = client.create_experiment("trainings")
    execution = client.create_run(experiment).info.run_id
    fold = client.create_run(experiment, tags={PARENT: execution}).info.run_id
    monkeypatch.setattr("sensorium.insilico.session.listed_runs", lambda target: [fold])
    tune(tiny_config, place)
    (run,) = search(client, everywhere(client), {ROLE: ROLE_INSILICO})
    assert run.data.tags[PARENT] == execution
    assert run.data.tags["sensorium.model"] == f"{EXPERIMENT}, fold_0"
    assert run.data.metrics["tuning/osi"] > 0
    assert run.data.params["mouse"] == NEW_MOUSE
    assert {"index.html", "summary.parquet"} <= {file.path for file in client.list_artifacts(run.info.run_id)}


def test_quantiles_are_those_of_the_training_trials(store: MouseStore):
    values = state.training_states(store)
    trials = np.flatnonzero(store.tiers == "train")
    seen = np.concatenate([store.states(trial) for trial in trials])
    np.testing.assert_allclose(values[2], np.median(seen, axis=0), rtol=1e-6)
