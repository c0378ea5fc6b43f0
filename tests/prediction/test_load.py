"""`sensorium.load`: folds and experiments in memory predict what the stages write."""

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_runs import STUDENT, TEACHER, TIER, train, trial_of

import sensorium
from sensorium.errors import CheckpointError, ConfigError, PredictionError
from sensorium.inference.encoding_model import EncodingModel, MouseInfo
from sensorium.inference.ensemble import combine
from sensorium.mice import short_name
from sensorium.model import checkpoint
from sensorium.stages import predict


def test_an_experiment_predicts_what_its_stage_writes(loadable, tiny_config, stores):
    two = tiny_config.folds.model_copy(update={"train": {"fold_0": 0, "fold_1": 1}})
    settings = tiny_config.prediction.model_copy(update={"batch_size": 32})  # a trial fills a batch by itself
    config = tiny_config.model_copy(update={"folds": two, "prediction": settings})
    predict.run(config, loadable, experiment=TEACHER, split=TIER)
    model = sensorium.load(loadable.experiment(TEACHER), batch_size=32)
    store = stores[0]
    assert model.readouts == tuple(store.name for store in stores)
    assert model.neurons == {store.name: store.neurons for store in stores}
    written = sorted((loadable.predictions(TEACHER, TIER) / store.name).glob("*.npy"))
    assert len(written) > 1
    for path in written:
        responses = model.predict(**trial_of(store, int(path.stem)))
        assert np.array_equal(np.load(path), responses)
        assert responses.unit_ids.tolist() == store.unit_ids.tolist()
        assert responses.shape == (store.neurons, store.lengths[int(path.stem)])
        assert responses.seconds[-1] == (responses.shape[1] - 1) / 30


def test_the_mean_of_a_fold_is_that_of_its_members(loadable, stores):
    model = sensorium.load(str(loadable.fold(STUDENT, 1)))
    assert [weight for _, weight in model.members(stores[0].name)] == [1.0]
    both = sensorium.load(loadable.experiment(STUDENT))
    assert [weight for _, weight in both.members(stores[1].name)] == [0.5, 0.5]


def test_weights_of_experiments(loadable, tiny_config, stores):
    folds = {name: [loadable.fold(name, 0), loadable.fold(name, 1)] for name in (TEACHER, STUDENT)}
    weights = {TEACHER: 0.25, STUDENT: 0.75}
    model = EncodingModel(folds, tiny_config.prediction, weights=weights)
    trial = trial_of(stores[0], 0)
    parts = [model.predict(**trial, experiment=name).values for name in (STUDENT, TEACHER)]
    assert np.array_equal(model.predict(**trial), combine(parts, [0.75, 0.25]))
    assert [weight for _, weight in model.members(stores[0].name)] == [0.375, 0.375, 0.125, 0.125]
    with pytest.raises(PredictionError, match=r"add up to 0\.5"):
        EncodingModel(folds, tiny_config.prediction, weights={TEACHER: 0.25, STUDENT: 0.25})
    with pytest.raises(PredictionError, match="weights of"):
        EncodingModel(folds, tiny_config.prediction, weights={TEACHER: 1.0})


def test_a_mouse_by_its_short_name_at_its_mean_state(loadable, stores):
    store = stores[0]
    model = sensorium.load(loadable.experiment(TEACHER))
    video, known = store.video(0), MouseInfo.of(store)
    behavior, pupil = (np.tile(np.array(mean)[:, None], len(video)) for mean in (known.behavior, known.pupil_center))
    assert np.array_equal(
        model.predict(video, short_name(store.name)), model.predict(video, store.name, behavior, pupil)
    )


def test_a_file_is_brought_into_the_form_of_the_recordings(loadable, stores, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (15, 30, 60)).astype(np.uint8)
    pictures = [Image.fromarray(frame) for frame in levels]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100)
    responses = sensorium.load(loadable.experiment(TEACHER)).predict(tmp_path / "clip.gif", stores[0].name)
    assert responses.shape == (stores[0].neurons, 45)


def test_a_file_that_nothing_reads(loadable, stores, tmp_path, monkeypatch):
    Image.fromarray(np.zeros((30, 60), np.uint8)).save(tmp_path / "clip.gif")
    monkeypatch.setitem(sys.modules, "PIL", None)
    model = sensorium.load(loadable.experiment(TEACHER))
    with pytest.raises(
        PredictionError, match=r"needs PIL, which is not installed\.\nType `pip install 'sensorium\[video"
    ):
        model.predict(tmp_path / "clip.gif", stores[0].name)


def test_folds_outside_of_a_project_know_no_mouse(loadable, stores, tmp_path):
    shutil.copytree(loadable.experiment(TEACHER), tmp_path / "elsewhere")
    model = sensorium.load(tmp_path / "elsewhere", precision="bf16-mixed", batch_size=3)
    assert (model.settings.precision, model.settings.batch_size) == ("bf16-mixed", 3)
    trial = trial_of(stores[0], 0)
    assert model.predict(**trial).unit_ids is None
    with pytest.raises(PredictionError, match="behavior: not given, and nothing is known"):
        model.predict(trial["video"], stores[0].name)


def test_recordings_of_other_neurons(loadable, tiny_config, stores):
    known = {stores[0].name: MouseInfo.of(stores[0])}
    swapped = {name: info.model_copy(update={"unit_ids": info.unit_ids[::-1]}) for name, info in known.items()}
    model = EncodingModel({TEACHER: [loadable.fold(TEACHER, 0)]}, tiny_config.prediction, mice=swapped)
    with pytest.raises(CheckpointError, match="other neurons there than in the data"):
        model.predict(**trial_of(stores[0], 0))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mouse": "mickey"}, "mouse 'mickey': the model has no readout for it"),
        ({"experiment": "other"}, "experiment 'other': not in the model"),
        ({"video": np.zeros((40, 99, 8))}, "larger than the canvas"),
        ({"video": np.zeros((2, 8, 8))}, "2 frames, at least"),
        ({"video": np.zeros((40, 8))}, "expected 3 dimensions"),
        ({"video": [["a"]]}, "no array of numbers"),
        ({"behavior": np.zeros((2, 3))}, r"shape \(2, 3\), expected \(2, "),
        ({"pupil_center": np.full((2, 3), np.nan)}, "holds NaN"),
        ({"video": "missing.gif"}, "the file does not exist"),
    ],
)
def test_what_cannot_be_predicted(loadable, stores, change, problem):
    model = sensorium.load(loadable.experiment(TEACHER))
    with pytest.raises((ConfigError, PredictionError), match=problem):
        model.predict(**trial_of(stores[0], 0) | change)


def test_what_cannot_be_loaded(loadable, tiny_config, stores, tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        sensorium.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no trained model"):
        sensorium.load(tmp_path)
    with pytest.raises(ConfigError, match="precision: 'float'"):
        sensorium.load(loadable.experiment(TEACHER), precision="float")
    with pytest.raises(ConfigError, match="batch_size"):
        sensorium.load(loadable.experiment(TEACHER), batch_size=0)
    shutil.copytree(loadable.fold(STUDENT, 0), loadable.experiment(TEACHER) / "fold_2")
    with pytest.raises(ConfigError, match=f"holds folds of {STUDENT}, {TEACHER}"):
        sensorium.load(loadable.experiment(TEACHER))
    train(tiny_config, loadable, stores[:1], STUDENT, 1)
    with pytest.raises(CheckpointError, match="mice differs from that of"):
        sensorium.load(loadable.experiment(STUDENT))


def test_damaged_weights_are_noticed_before_they_are_used(loadable, stores):
    model = sensorium.load(loadable.experiment(TEACHER))
    weights = loadable.fold(TEACHER, 1) / checkpoint.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        model.predict(**trial_of(stores[0], 0))


def test_a_prediction_leaves_no_gradient(loadable, stores):
    model = sensorium.load(loadable.experiment(TEACHER))
    member, _ = model.members(stores[0].name)[0]
    model.predict(**trial_of(stores[0], 0))
    assert isinstance(member, torch.nn.Module)
    assert all(parameter.grad is None for parameter in member.parameters())
