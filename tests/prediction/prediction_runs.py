"""Trained folds with random weights, and predictions that die half-way."""

import json

import torch

from sensorium.inference import runner
from sensorium.model import checkpoint
from sensorium.model.dwiseneuro import DwiseNeuro

TEACHER, STUDENT = "true_batch_001", "distillation_001"
TIER = "live_test_main"


def train(config, paths, stores, experiment, fold, **changes):
    """A fold with random weights, as training would leave it."""
    settings = config.experiments[experiment].model
    torch.manual_seed(fold + 100 * (experiment == STUDENT))
    info = {
        "experiment": experiment,
        "fold": fold,
        "model": settings,
        "window": config.window,
        "mice": {store.name: store.neurons for store in stores},
        "units": {store.name: checkpoint.digest_units(store.unit_ids) for store in stores},
    } | changes
    model = DwiseNeuro(settings, list(info["mice"].values()))
    checkpoint.save(paths.fold(experiment, fold), model, checkpoint.ModelInfo(**info))


def trial_of(store, number):
    """Arguments of a loaded model's `predict`."""
    states = store.states(number).T
    return {"video": store.video(number), "mouse": store.name, "behavior": states[:2], "pupil_center": states[2:]}


def forget_checksums(folder):
    """Let predictions be as those of an earlier version, which a test may change."""
    file = folder / "provenance.json"
    tree = json.loads(file.read_text())
    del tree["checksums"]
    file.write_text(json.dumps(tree))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_after(monkeypatch, groups):
    """Let a prediction die after some groups of trials; returns what was predicted."""
    predicted = []
    original = runner._Worker.predict

    def counting(worker, group):
        if len(predicted) == groups:
            raise Killed
        predicted.append(group)
        return original(worker, group)

    monkeypatch.setattr(runner._Worker, "predict", counting)
    return predicted
