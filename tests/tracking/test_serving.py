"""What MLflow serves is what the project predicts."""

import hashlib
import itertools
import json
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

import sensorium
from sensorium.errors import TrackingError
from sensorium.files import write_json
from sensorium.inference.member import load_member
from sensorium.inference.sliding import SlidingPredictor, TrialInput
from sensorium.registry.manifest import PAIR
from sensorium.stages import register

FRAMES = 40


def post(model, body):
    """Status and JSON with which MLflow's scoring server answers a request."""
    try:
        reply = scoring_server.invocations(
            body if isinstance(body, str) else json.dumps(body),
            "application/json",
            model,
            model.metadata.get_input_schema(),
        )
    except MlflowException as fault:
        return fault.get_http_status_code(), json.loads(fault.serialize_as_json())
    return reply.status, json.loads(reply.response)


@pytest.fixture
def served(trained, monkeypatch):
    register.run(trained.config, trained.paths)
    uri = trained.store.uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return trained


def load(name="sensorium-pair", version=1):
    return mlflow.pyfunc.load_model(f"models:/{name}/{version}")


@pytest.fixture
def trial():
    random = np.random.default_rng(0)
    return {
        "video": random.integers(0, 256, (7, 8, FRAMES)).astype(float),
        "behavior": random.random((2, FRAMES)),
        "pupil_center": random.random((2, FRAMES)),
    }


def expected(project, experiment, mouse, trial):
    """The experiment's mean over folds, by the code that `sensorium predict` runs."""
    index = list(project.config.dataset.mice).index(mouse)
    store = SimpleNamespace(name=mouse, neurons=3 + index, unit_ids=np.arange(3 + index, dtype=np.uint32))
    folders = [project.paths.fold(experiment, fold) for fold in range(3)]
    settings = project.config.prediction
    members = [load_member(folder, store) for folder in folders]
    predictor = SlidingPredictor(members, settings.batch_size, settings.precision, torch.device("cpu"))
    states = np.concatenate([trial["behavior"], trial["pupil_center"]]).T.astype(np.float32)
    video = torch.from_numpy(trial["video"].transpose(2, 0, 1).astype(np.float32))
    return predictor.predict([TrialInput(mouse, video, torch.from_numpy(states.copy()))])[0]


@pytest.mark.parametrize("number", [0, 2])
def test_the_pair_predicts_as_its_models_do(served, trial, number):
    mouse = list(served.config.dataset.mice)[number]
    student, teacher = (expected(served, name, mouse, trial) for name in ("distillation_001", "true_batch_001"))
    pair = load()
    assert np.array_equal(pair.predict(trial, params={"mouse": mouse, "model": "student"}), student)
    assert np.array_equal(pair.predict(trial, params={"mouse": mouse, "model": "teacher"}), teacher)
    mean = np.mean([student, teacher], axis=0, dtype=np.float32)
    assert np.array_equal(pair.predict(trial, params={"mouse": mouse}), mean)
    assert mean.shape == (3 + number, FRAMES)


def test_a_pair_with_fitted_weights_predicts_their_mean(served, trial):
    mouse, weights = next(iter(served.config.dataset.mice)), {"distillation_001": 0.75, "true_batch_001": 0.25}
    ensemble = served.config.ensemble.model_copy(update={"weights": "fitted"})
    fitted = served.config.model_copy(update={"ensemble": ensemble})
    write_json(served.paths.evaluation / "weights.json", {"method": "fitted", "weights": weights})
    register.run(fitted, served.paths)
    mean = np.sum([weight * expected(served, name, mouse, trial) for name, weight in weights.items()], axis=0)
    np.testing.assert_allclose(load(version=2).predict(trial, params={"mouse": mouse}), mean, rtol=1e-5)


def test_each_model_serves_alone(served, trial):
    mouse = next(iter(served.config.dataset.mice))
    model = load("sensorium-student")
    assert np.array_equal(
        model.predict(trial, params={"mouse": mouse}), expected(served, "distillation_001", mouse, trial)
    )
    with pytest.raises(MlflowException, match="Choose one of: student"):
        model.predict(trial, params={"mouse": mouse, "model": "teacher"})


def test_tuning_of_one_neuron_is_one_request(served, trial):
    mouse, pair = next(iter(served.config.dataset.mice)), load()
    inputs = {name: values.tolist() for name, values in trial.items()}
    status, reply = post(pair, {"inputs": inputs, "params": {"mouse": mouse, "experiment": "tuning", "neuron": 2}})
    assert status == 200
    rows = np.asarray(reply["predictions"])
    assert rows.shape == (32, 4)
    assert {tuple(row) for row in rows[:, :3].round(3)} == set(
        itertools.product(range(0, 360, 45), (0.7, 1.4), (2.0, 4.0))
    )
    y, x = np.mgrid[:7, :8] / 7
    state = {name: np.repeat(trial[name].mean(axis=1)[:, None], 45, axis=1) for name in ("behavior", "pupil_center")}
    for direction, spatial, temporal, response in rows[[0, 5, 31]]:
        angle, seconds = np.deg2rad(direction), np.arange(45) / 30
        along = (x * np.cos(angle) + y * np.sin(angle))[..., None]
        shown = 127.5 * (1 + np.sin(2 * np.pi * (spatial * along - temporal * seconds)))
        predicted = pair.predict({"video": shown, **state}, params={"mouse": mouse})
        np.testing.assert_allclose(response, predicted[2, 15:].mean(), rtol=1e-4)


@pytest.mark.parametrize("address", ["models:/sensorium-pair/1", "models:/sensorium-pair@champion"])
def test_the_registered_pair_is_loaded_by_its_address(served, trial, monkeypatch, address):
    mouse = next(iter(served.config.dataset.mice))
    served.store.client().set_registered_model_alias(PAIR, "champion", "1")
    for place in (served.paths.root, served.paths.root.parent):  # inside of the project, and elsewhere
        monkeypatch.chdir(place)
        model = sensorium.load(address)
        assert model.weights == {"distillation_001": 0.5, "true_batch_001": 0.5}
        predicted = model.predict(trial["video"].transpose(2, 0, 1), mouse, trial["behavior"], trial["pupil_center"])
        assert np.array_equal(predicted, load().predict(trial, params={"mouse": mouse}))
    alone = sensorium.load("models:/sensorium-student/1")
    assert alone.weights == {"distillation_001": 1.0}


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("models:/sensorium-pair@nobody", "has no such version"),
        ("models:/sensorium-pair/7", "has no such version"),
        ("models:/nothing/1", "has no such version"),
        ("models:/sensorium-pair", "names no version"),
        ("models:/sensorium-pair/one", "names no version"),
    ],
)
def test_addresses_that_name_no_version(served, monkeypatch, address, problem):
    monkeypatch.chdir(served.paths.root)
    with pytest.raises(TrackingError, match=problem):
        sensorium.load(address)


def test_the_input_example_is_answered(served):
    model = load()
    data = model.input_example
    request = json.loads(mlflow.artifacts.load_text(f"models:/{PAIR}/1/serving_input_example.json"))
    assert request["params"] == {"mouse": next(iter(served.config.dataset.mice)), "model": "ensemble"}
    status, _ = post(model, request)
    assert status == 200
    assert set(data) == {"video", "behavior", "pupil_center"}


def test_it_answers_over_http(served, trial):
    mouse = next(iter(served.config.dataset.mice))
    model = load()
    request = {"inputs": {name: values.tolist() for name, values in trial.items()}, "params": {"mouse": mouse}}
    status, reply = post(model, request)
    assert status == 200
    answered = np.asarray(reply["predictions"], np.float32)
    assert np.array_equal(answered, model.predict(trial, params={"mouse": mouse}))


@pytest.mark.parametrize(
    ("change", "params", "problem"),
    [
        ({}, {}, "params.mouse: '' is unknown"),
        ({}, {"mouse": "mickey"}, "Choose one of: dynamic29515"),
        ({}, {"model": "oracle"}, "Choose one of: ensemble, student, teacher"),
        ({}, {"experiment": "surgery"}, "params.experiment: 'surgery' is unknown. Choose one of: tuning"),
        ({}, {"experiment": "tuning", "neuron": 99}, "params.neuron: 99, but dynamic29515"),
        ({}, {"experiment": "tuning", "neuron": -1}, "counted from 0"),
        ({}, {"experiment": "tuning", "neuron": None}, "params.neuron: None is no whole number"),
        ({"behavior": np.full((2, FRAMES), np.nan)}, {"experiment": "tuning"}, "behavior: holds NaN"),
        ({"video": np.zeros((9, 8, FRAMES))}, {}, "larger than the canvas"),
        ({"video": np.zeros((8, 8, 5))}, {}, "5 frames, at least 32 are needed"),
        ({"video": np.full((8, 8, FRAMES), np.nan)}, {}, "holds NaN, infinity"),
        ({"behavior": np.zeros((2, 7))}, {}, "shape (2, 7), expected (2, 40)"),
        ({"pupil_center": np.zeros((3, FRAMES))}, {}, "shape (3, 40), expected (2, 40)"),
        ({"behavior": None}, {}, "behavior"),
        ({"video": np.zeros((8, FRAMES))}, {}, "video"),
    ],
)
def test_bad_requests_get_clear_errors(served, trial, change, params, problem):
    mouse = {"mouse": next(iter(served.config.dataset.mice))} if "params.mouse" not in problem else {}
    request = {name: values for name, values in (trial | change).items() if values is not None}
    body = {"inputs": {name: values.tolist() for name, values in request.items()}, "params": mouse | params}
    status, reply = post(load(), body)
    assert status == 400
    assert problem in reply["message"]


def hostile(inputs, params):
    """Bodies that are no request, by what is wrong with them."""
    many = len(inputs["behavior"][0])
    yield from {"nothing": "", "half": "{", "null": "null", "list": "[]", "number": "3", "no key": "{}"}.items()
    whole = {
        "inputs null": {"inputs": None},
        "inputs empty": {"inputs": {}},
        "inputs text": {"inputs": "abc"},
        "table": {"dataframe_split": {"columns": ["a"], "data": [[1]]}},
        "no table": {"dataframe_split": 3},
        "two": {"inputs": inputs, "instances": [1]},
        "params list": {"inputs": inputs, "params": [1]},
        "mouse number": {"inputs": inputs, "params": {"mouse": 3}},
        "mouse list": {"inputs": inputs, "params": {"mouse": [params["mouse"]]}},
        "mouse null": {"inputs": inputs, "params": {"mouse": None}},
        "model number": {"inputs": inputs, "params": params | {"model": 3}},
    }
    values = {
        "infinity": [[float("inf")] * many] * 2,
        "too large for float32": [[1e308] * many] * 2,
        "too large for float64": [[10**400] * many] * 2,
        "null": [[None] * many] * 2,
        "objects": [[{}] * many] * 2,
        "words": [["a"] * many] * 2,
        "ragged": [[1, 2], [1]],
        "empty": [],
        "emptier": [[], []],
        "scalar": 3,
        "negative sizes": {"shape": [-1, 2], "data": []},
    }
    for name, value in values.items():
        whole[name] = {"inputs": inputs | {"behavior": value}, "params": params}
    yield from ((name, json.dumps(body)) for name, body in whole.items())


def test_hostile_requests_are_refused_with_the_reason_and_the_model_still_answers(served, trial):
    model = load()
    inputs = {name: values.tolist() for name, values in trial.items()}
    params = {"mouse": next(iter(served.config.dataset.mice))}
    for name, body in hostile(inputs, params):
        status, reply = post(model, body)
        assert 400 <= status < 500, f"{name}: {reply}"
        assert len(reply["message"]) > 20, name
        assert "unexpected error" not in reply["message"], f"{name}: {reply}"
    assert post(model, {"inputs": inputs, "params": params})[0] == 200


def test_gratings_larger_than_the_canvas_are_refused_before_they_are_built(served, trial, monkeypatch):
    mouse = next(iter(served.config.dataset.mice))
    monkeypatch.setattr("sensorium.registry.serving.grating", lambda *_: pytest.fail("a grating was built"))
    params = {"mouse": mouse, "experiment": "tuning"}
    with pytest.raises(MlflowException, match="larger than the canvas"):
        load().predict(trial | {"video": np.zeros((9, 8, FRAMES))}, params=params)


def test_a_video_without_pixels_is_refused(served, trial):
    mouse = next(iter(served.config.dataset.mice))
    with pytest.raises(MlflowException, match="video: holds no value"):
        load().predict(trial | {"video": np.zeros((0, 8, FRAMES))}, params={"mouse": mouse})


def test_a_pair_whose_weights_are_lost_does_not_load(served):
    digest = hashlib.md5((served.paths.fold("true_batch_001", 1) / "model.safetensors").read_bytes()).hexdigest()
    (served.paths.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]).unlink()
    for name in ("sensorium-pair", "sensorium-teacher"):
        with pytest.raises(Exception, match=r"fold_1/model\.safetensors: neither in DVC's cache"):
            load(name)
    assert load("sensorium-student")
