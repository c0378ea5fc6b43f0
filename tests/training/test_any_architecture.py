"""Any architecture trains, goes on where it was killed, is scored, predicts, and is exported or refused."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import ROOT, TINY_BASELINE
from training_runs import EXPERIMENT, STUDENT, change_params, checkpoints, finish, leftovers, start, train_here

from sensorium.architectures import ARCHITECTURES, Architecture
from sensorium.commands import weights
from sensorium.commands.model import summarise
from sensorium.config import load
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError
from sensorium.inference.member import load_member
from sensorium.inference.sliding import SlidingPredictor, TrialInput
from sensorium.model import checkpoint
from sensorium.paths import Paths
from sensorium.stages import predict

RECURRENT = TINY_BASELINE | {"recurrent_features": 4, "recurrent_kernel": 3}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The architecture of docs/how-to/architectures.md, added as the page says; the settings of its experiment."""
    page = (ROOT / "docs" / "how-to" / "architectures.md").read_text(encoding="utf-8")
    code, line, experiment = re.findall(r"```(?:python|yaml)\n(.*?)```", page, re.DOTALL)
    source = tmp_path / "linear.py"
    source.write_text(code)
    spec = importlib.util.spec_from_file_location("sensorium.model.linear", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sensorium.model.linear", module)
    spec.loader.exec_module(module)
    parts = re.fullmatch(r'\s*"(\w+)": Architecture\("([\w:]+)", "([\w:]+)"\),\s*', line)
    assert parts is not None
    monkeypatch.setitem(ARCHITECTURES, parts[1], Architecture(parts[2], parts[3]))
    return yaml.safe_load(experiment)["model"]


def set_model(project: Path, model: dict) -> None:
    change_params(project, {f"experiments.{EXPERIMENT}.model": model})


def predict_fold(project: Path) -> dict[str, np.ndarray]:
    """Out-of-fold predictions of fold 0, by mouse and trial, beside those made window by window."""
    config, paths = load(project / "params.yaml"), Paths(project)
    change_params(project, {"folds.train": {"fold_0": 0}, "pipeline": None})
    predict.run(load(project / "params.yaml"), paths, EXPERIMENT, "folds")
    folder = paths.predictions(EXPERIMENT, "folds")
    store = MouseStore(paths.store(next(iter(config.dataset.mice))))
    path = sorted((folder / store.name).iterdir())[0]
    member = load_member(paths.fold(EXPERIMENT, 0), store)
    sliding = SlidingPredictor([member], 3, "32-true", torch.device("cpu"))
    by_hand = sliding.predict([TrialInput.read(store, int(path.stem))])[0]
    return {"stage": np.load(path), "by hand": by_hand}


@pytest.mark.parametrize("name", ["baseline", "recurrent", "example"])
def test_any_architecture_trains_and_predicts(project, request, name):
    models = {"baseline": TINY_BASELINE, "recurrent": RECURRENT}
    model = request.getfixturevalue("example") if name == "example" else models[name]
    set_model(project, model)
    train_here(project)
    trained = checkpoint.load(project / "data" / "experiments" / EXPERIMENT / "fold_0")
    assert trained.info.model.model_dump(mode="json").items() >= model.items()
    layers = summarise(trained.info.model, trained.info.mice, 16)
    assert sum(layer.parameters for layer in layers) == sum(weight.numel() for weight in trained.model.parameters())
    assert all(layer.multiply_adds > 0 for layer in layers if "norm" not in layer.name)
    found = predict_fold(project)
    assert found["stage"].std() > 0
    np.testing.assert_allclose(found["stage"], found["by hand"], rtol=1e-4, atol=1e-5)


def test_a_student_may_learn_from_another_architecture(project):
    set_model(project, TINY_BASELINE)
    train_here(project)
    train_here(project, STUDENT)
    info = checkpoint.read_info(project / "data" / "experiments" / STUDENT / "fold_0")
    assert info.model.architecture == "dwiseneuro"


def test_equal_trainings_of_the_baseline_give_equal_bytes_with_or_without_kills(project, tmp_path):
    set_model(project, TINY_BASELINE)
    change_params(project, {"runtime.checkpoint_steps": 2})
    whole = finish(project)
    for event in (12, 25):
        (project / "data" / "experiments" / EXPERIMENT / "fold_0" / "config.json").unlink()
        process = start(project, kill_event=event)
        process.join()
        assert process.exitcode != 0
        assert checkpoints(project) or event < 20
        assert finish(project) == whole
    assert not leftovers(project)


def test_the_published_form_is_dwiseneuros_alone(project, tmp_path):
    set_model(project, TINY_BASELINE)
    config, paths = load(project / "params.yaml"), Paths(project)
    with pytest.raises(CheckpointError, match=r"model.architecture: the published form holds a dwiseneuro, not a base"):
        weights.run_export(config, paths, tmp_path / "out", EXPERIMENT)
    with pytest.raises(CheckpointError, match=r"the published form holds a dwiseneuro"):
        weights.run_import(config, paths, tmp_path, EXPERIMENT, force=False)
    assert not (tmp_path / "out").exists()
