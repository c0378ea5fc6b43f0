"""The predict and ensemble stages: which models predict what, resumption, and faults."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from prediction_runs import STUDENT, TEACHER, TIER, Killed, contents, kill_after, train

from sensorium.errors import CheckpointError, PredictionError, TrackingError
from sensorium.inference.member import load_member
from sensorium.inference.predictions import Predictions, write_prediction
from sensorium.inference.sliding import SlidingPredictor, TrialInput
from sensorium.model import checkpoint
from sensorium.stages import ensemble, predict

NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
OLD_MOUSE = "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce"


def expected(config, paths, store, trial, experiment, folds):
    """Prediction by hand: one fold after the other."""
    parts = []
    for fold in folds:
        member = load_member(paths.fold(experiment, fold), store)
        sliding = SlidingPredictor([member], config.prediction.batch_size, "32-true", torch.device("cpu"))
        parts.append(sliding.predict([TrialInput.read(store, trial)])[0])
    return np.mean(parts, axis=0)


def test_each_trial_is_predicted_by_the_fold_that_did_not_learn_it(trained, tiny_config, stores, table):
    predict.run(tiny_config, trained, TEACHER, "folds")
    folder = trained.predictions(TEACHER, "folds")
    assert folder.name == "out-of-fold"
    for store in stores:
        folds = table.of(store.name)
        found = sorted(int(path.stem) for path in (folder / store.name).iterdir())
        assert found == np.flatnonzero(folds >= 0).tolist()
        for trial in (found[0], found[-1]):
            prediction = np.load(folder / store.name / f"{trial}.npy")
            assert prediction.dtype == np.float32
            assert prediction.shape == (store.neurons, store.lengths[trial])
            by_hand = expected(tiny_config, trained, store, trial, TEACHER, [folds[trial]])
            np.testing.assert_allclose(prediction, by_hand, rtol=1e-4, atol=1e-6)


def test_a_test_tier_is_predicted_by_the_mean_of_all_folds(trained, tiny_config, stores):
    predict.run(tiny_config, trained, TEACHER, TIER)
    folder = trained.predictions(TEACHER, TIER)
    new = [store for store in stores if store.mouse_set == "new"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(store.name for store in new)
    trial = int(np.flatnonzero(new[0].tiers == TIER)[0])
    by_hand = expected(tiny_config, trained, new[0], trial, TEACHER, [0, 1, 2])
    np.testing.assert_allclose(np.load(folder / new[0].name / f"{trial}.npy"), by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("choice", "old", "new"), [("old", True, False), ("all", True, True)])
def test_mice_can_be_chosen(trained, tiny_config, choice, old, new):
    predict.run(tiny_config, trained, TEACHER, TIER, choice)
    folder = trained.predictions(TEACHER, TIER)
    assert (folder / OLD_MOUSE).is_dir() == old
    assert (folder / NEW_MOUSE).is_dir() == new


def test_provenance_names_inputs_and_no_place_or_time(trained, tiny_config):
    predict.run(tiny_config, trained, TEACHER, TIER)
    text = (trained.predictions(TEACHER, TIER) / "provenance.json").read_text()
    found = json.loads(text)
    digests = [checkpoint.digest(trained.fold(TEACHER, fold)) for fold in range(3)]
    assert found["assignments"][0]["weights"] == {TEACHER: digests}
    assert found["prediction"]["precision"] == "32-true"
    assert found["relative_error"] == {}
    assert str(trained.root) not in text


def test_mixed_precision_tells_its_error(trained, tiny_config, capsys):
    prediction = tiny_config.prediction.model_copy(update={"precision": "bf16-mixed"})
    predict.run(tiny_config.model_copy(update={"prediction": prediction}), trained, TEACHER, TIER)
    found = json.loads((trained.predictions(TEACHER, TIER) / "provenance.json").read_text())
    assert NEW_MOUSE in found["relative_error"]
    assert all(1e-6 < error < 0.1 for error in found["relative_error"].values())
    told = f"{NEW_MOUSE}: bf16-mixed has a relative error of {found['relative_error'][NEW_MOUSE]:.1e}."
    assert told in capsys.readouterr().out


def test_half_the_space_keeps_three_digits(trained, tiny_config):
    half = tiny_config.model_copy(
        update={"prediction": tiny_config.prediction.model_copy(update={"storage": "float16"})}
    )
    whole, smaller = {}, {}
    for config, found in ((tiny_config, whole), (half, smaller)):
        for experiment in (TEACHER, STUDENT):
            predict.run(config, trained, experiment, TIER)
        ensemble.run(config, trained, f"{STUDENT},{TEACHER}", TIER)
        for experiment in (TEACHER, f"{STUDENT},{TEACHER}"):
            folder = trained.predictions(experiment, TIER)
            found |= {path.relative_to(trained.root): np.load(path) for path in folder.rglob("*.npy")}
    assert whole.keys() == smaller.keys()
    for path, exact in whole.items():
        assert smaller[path].dtype == np.float16
        np.testing.assert_allclose(smaller[path], exact, rtol=2e-3, atol=1e-6)
    shape = exact.shape
    loaded = Predictions.open(folder).load(path.parent.name, int(path.stem), shape)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, smaller[path])


def test_a_value_too_large_for_float16(tmp_path):
    with pytest.raises(PredictionError, match="trial 3: a value of 70000 does not fit into float16") as caught:
        write_prediction(tmp_path, NEW_MOUSE, 3, np.full((2, 5), 7e4, np.float32), "float16")
    assert "prediction.storage" in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))


def test_equal_inputs_give_equal_bytes_however_the_work_is_shared(trained, tiny_config):
    predict.run(tiny_config, trained, TEACHER, TIER)
    folder = trained.predictions(TEACHER, TIER)
    alone = contents(folder)
    shutil.rmtree(folder)
    shared = tiny_config.model_copy(update={"runtime": tiny_config.runtime.model_copy(update={"devices": 2})})
    predict.run(shared, trained, TEACHER, TIER)
    assert contents(folder) == alone


def test_a_killed_prediction_goes_on_where_it_was(trained, tiny_config, monkeypatch):
    config = tiny_config.model_copy(update={"prediction": tiny_config.prediction.model_copy(update={"batch_size": 16})})
    predict.run(config, trained, TEACHER, TIER)
    folder = trained.predictions(TEACHER, TIER)
    whole = contents(folder)
    shutil.rmtree(folder)  # as DVC does before a stage
    with monkeypatch.context() as patch:
        first = kill_after(patch, 2)
        with pytest.raises(Killed):
            predict.run(config, trained, TEACHER, TIER)
    assert not folder.exists()
    with monkeypatch.context() as patch:
        second = kill_after(patch, 1000)
        predict.run(config, trained, TEACHER, TIER)
    assert len(first) == 2
    assert not [group for group in second if group in first]
    assert contents(folder) == whole
    assert not list((trained.state / "predict" / TEACHER / TIER).glob("*/"))


def test_other_weights_do_not_go_on_from_old_work(trained, tiny_config, stores, monkeypatch):
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(Killed):
            predict.run(tiny_config, trained, TEACHER, TIER)
    settings = tiny_config.model_copy(update={"seed": 1})
    train(settings, trained, stores, TEACHER, 0, scores={"epoch": 5})
    predict.run(tiny_config, trained, TEACHER, TIER)
    after = contents(trained.predictions(TEACHER, TIER))
    shutil.rmtree(trained.state)
    predict.run(tiny_config, trained, TEACHER, TIER)
    assert contents(trained.predictions(TEACHER, TIER)) == after


def refused(error, paths, split, run):
    with pytest.raises(error) as caught:
        run()
    assert not paths.predictions(TEACHER, split).exists()
    return str(caught.value)


def test_a_fold_that_is_not_trained(trained, tiny_config):
    shutil.rmtree(trained.fold(TEACHER, 1))
    message = refused(CheckpointError, trained, TIER, lambda: predict.run(tiny_config, trained, TEACHER, TIER))
    assert "fold 1 of true_batch_001 is not trained" in message
    assert "dvc repro train@true_batch_001-1" in message


def test_a_model_of_other_mice(trained, tiny_config, stores):
    train(tiny_config, trained, stores[1:], TEACHER, 2)
    message = refused(CheckpointError, trained, TIER, lambda: predict.run(tiny_config, trained, TEACHER, TIER))
    assert f"cannot predict {NEW_MOUSE}" in message
    assert "knows only" in message


def test_a_model_of_swapped_neurons(trained, tiny_config, stores):
    units = {NEW_MOUSE: checkpoint.digest_units(stores[0].unit_ids[::-1])}
    train(tiny_config, trained, stores, TEACHER, 2, units=units)
    message = refused(CheckpointError, trained, TIER, lambda: predict.run(tiny_config, trained, TEACHER, TIER))
    assert "in another order" in message


def test_a_model_of_another_window(trained, tiny_config, stores):
    window = tiny_config.window.model_copy(update={"step": 1})
    train(tiny_config, trained, stores, TEACHER, 0, window=window)
    message = refused(CheckpointError, trained, TIER, lambda: predict.run(tiny_config, trained, TEACHER, TIER))
    assert "trained on windows of 16 frames at step 1" in message


def test_weights_that_give_nan(trained, tiny_config, stores):
    train(tiny_config, trained, stores, TEACHER, 0)
    folder = trained.fold(TEACHER, 0)
    model = checkpoint.load(folder)
    torch.nn.init.constant_(model.model.readouts[0].linear.bias, torch.nan)
    checkpoint.save(folder, model.model, model.info)
    message = refused(PredictionError, trained, TIER, lambda: predict.run(tiny_config, trained, TEACHER, TIER))
    assert f"{NEW_MOUSE}, trial" in message
    assert "NaN" in message


def test_trials_shorter_than_the_window(trained, tiny_config):
    window = tiny_config.window.model_copy(update={"step": 5})
    config = tiny_config.model_copy(update={"window": window})
    message = refused(PredictionError, trained, TIER, lambda: predict.run(config, trained, TEACHER, TIER))
    assert "the window needs 80 to cover every frame" in message


def test_a_split_that_does_not_exist_leaves_the_command_with_a_message(project, tiny_config):
    (project.root / "params.yaml").write_text(yaml.safe_dump(tiny_config.model_dump(mode="json")))
    done = subprocess.run(
        [Path(sys.executable).with_name("sensorium"), "predict", "-e", TEACHER, "-s", "live_main"],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "split 'live_main': does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_ensemble_of_predictions_on_disk(trained, tiny_config, stores):
    for experiment in (TEACHER, STUDENT):
        predict.run(tiny_config, trained, experiment, TIER)
    ensemble.run(tiny_config, trained, f"{STUDENT},{TEACHER}", TIER)
    folder = trained.predictions(f"{STUDENT},{TEACHER}", TIER)
    parts = [contents(trained.predictions(experiment, TIER)) for experiment in (STUDENT, TEACHER)]
    assert set(contents(folder)) == set(parts[0])
    path = f"{NEW_MOUSE}/{int(np.flatnonzero(stores[0].tiers == TIER)[0])}.npy"
    members = [np.load(trained.predictions(experiment, TIER) / path) for experiment in (STUDENT, TEACHER)]
    np.testing.assert_allclose(np.load(folder / path), np.mean(members, 0), rtol=1e-6)


def test_the_ensemble_of_a_registered_pair_equals_that_of_its_predictions(trained, tiny_config, monkeypatch):
    for experiment in (TEACHER, STUDENT):
        predict.run(tiny_config, trained, experiment, TIER)
    ensemble.run(tiny_config, trained, f"{STUDENT},{TEACHER}", TIER)
    folder = trained.predictions(f"{STUDENT},{TEACHER}", TIER)
    averaged = {path: np.load(path) for path in folder.rglob("*.npy")}
    pair = {e: [trained.fold(e, fold) for fold in range(3)] for e in (TEACHER, STUDENT)}
    weights = {STUDENT: 0.75, TEACHER: 0.25}
    monkeypatch.setattr("sensorium.registry.pair.load_pair", lambda pin, paths: pair)
    monkeypatch.setattr("sensorium.registry.pair.pinned_weights", lambda pin: None)
    ensemble.run(tiny_config, trained, f"{STUDENT},{TEACHER}", TIER, trained.pair_pin)
    assert len(averaged) > 4
    for path, values in averaged.items():
        np.testing.assert_allclose(np.load(path), values, rtol=1e-5)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert "ensemble_weights" not in provenance
    monkeypatch.setattr("sensorium.registry.pair.pinned_weights", lambda pin: weights)
    ensemble.run(tiny_config, trained, f"{STUDENT},{TEACHER}", TIER, trained.pair_pin)
    for path in averaged:
        parts = {e: np.load(trained.predictions(e, TIER) / path.relative_to(folder)) for e in weights}
        blend = np.sum([weights[e] * part for e, part in parts.items()], 0)
        np.testing.assert_allclose(np.load(path), blend, rtol=1e-5)
    assert json.loads((folder / "provenance.json").read_text())["ensemble_weights"] == weights


def test_a_pair_that_is_not_registered(trained, tiny_config):
    with pytest.raises(TrackingError) as caught:
        ensemble.run(tiny_config, trained, f"{STUDENT},{TEACHER}", TIER, trained.pair_pin)
    assert f"{trained.pair_pin}: the file does not exist." in str(caught.value)
    assert "sensorium register" in str(caught.value)
    assert not trained.predictions(f"{STUDENT},{TEACHER}", TIER).exists()


def test_an_ensemble_lacks_a_trial(trained, tiny_config):
    for experiment in (TEACHER, STUDENT):
        predict.run(tiny_config, trained, experiment, TIER)
    path = max(trained.predictions(TEACHER, TIER).rglob("*.npy"))
    path.unlink()
    with pytest.raises(PredictionError) as caught:
        ensemble.run(tiny_config, trained, f"{STUDENT},{TEACHER}", TIER)
    assert f"{path}: the prediction of this trial is missing" in str(caught.value)
    assert not trained.predictions(f"{STUDENT},{TEACHER}", TIER).exists()
