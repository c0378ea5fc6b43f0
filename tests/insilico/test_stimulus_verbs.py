"""`most-exciting-input` and `reconstruct` on a tiny simulated mouse: what they write, resume and refuse."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sensorium.commands import most_exciting, reconstruct
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError, ConfigError, PredictionError, TrackingError
from sensorium.insilico import most_exciting as library
from sensorium.insilico import reconstruction
from sensorium.insilico.subject import ModelSubject, mean_state
from sensorium.insilico.target import Target
from sensorium.model import checkpoint
from sensorium.model.architecture import build
from sensorium.paths import Paths
from sensorium.stages import folds, ingest

MODEL = "distillation_001"


@pytest.fixture(scope="module")
def paths(tiny_config, tmp_path_factory):
    """A project with stores, folds, and an untrained model of two folds that does not know the last mouse."""
    paths = Paths(tmp_path_factory.mktemp("insilico"))
    for mouse in tiny_config.dataset.mice:
        ingest.run(tiny_config, paths, mouse)
    folds.run(tiny_config, paths)
    stores = [MouseStore(paths.store(mouse)) for mouse in tiny_config.dataset.mice][:-1]
    for fold in (0, 1):
        torch.manual_seed(fold)
        model = build(tiny_config.experiments[MODEL].model, [store.neurons for store in stores])
        info = checkpoint.ModelInfo(
            experiment=MODEL,
            fold=fold,
            model=tiny_config.experiments[MODEL].model,
            window=tiny_config.window,
            mice={store.name: store.neurons for store in stores},
            units={store.name: checkpoint.digest_units(store.unit_ids) for store in stores},
        )
        checkpoint.save(paths.fold(MODEL, fold), model, info)
    return paths


@pytest.fixture
def store(paths, tiny_config):
    return MouseStore(paths.store(next(iter(tiny_config.dataset.mice))))


@pytest.fixture
def held_out(paths, store):
    return np.flatnonzero(Folds.load(paths.folds).of(store.name, store.trials) == 0).tolist()


def excite(config, paths, output, model="simulation", **choice):
    most_exciting.run(config, paths, model, output=output, **({"steps": 4, "starts": 2, "every": 30} | choice))
    return pd.read_parquet(output / "summary.parquet")


def test_stimuli_of_a_mouse_are_written_with_those_they_beat(tiny_config, paths, store, tmp_path, capsys):
    found = excite(tiny_config, paths, tmp_path / "found", neurons="1,3-4", steps=20)
    assert found["neuron"].tolist() == 2 * [1, 3, 4]
    assert (found["response"] > found["natural_response"]).all()
    assert (found["same_contrast_response"] == found["natural_response"]).all()
    assert "100% of 3 neurons" in " ".join(capsys.readouterr().out.split())
    arrays = {name: np.load(tmp_path / "found" / f"{name}.npy") for name in ("image", "movie", "natural_image")}
    assert arrays["image"].shape == (3, 1, *store.frame_shape)
    assert arrays["movie"].shape == (3, tiny_config.window.shortest_trial, *store.frame_shape)
    first = found.iloc[0]
    np.testing.assert_array_equal(arrays["natural_image"][0, 0], store.video(first["trial"])[first["frame"]])
    contrast = np.sqrt(np.mean((arrays["image"][0] - 127.5) ** 2))
    assert contrast == pytest.approx(first["contrast"], rel=0.01)
    assert "Most exciting input" in (tmp_path / "found" / "index.html").read_text(encoding="utf-8")


def test_a_given_contrast_is_that_of_all_stimuli(tiny_config, paths, tmp_path):
    found = excite(tiny_config, paths, tmp_path / "found", contrast=25.0, neurons="0")
    assert (found["contrast"] == 25).all()
    assert (found["same_contrast_response"] != found["natural_response"]).any()


def test_a_killed_session_goes_on_after_its_last_batch(tiny_config, paths, tmp_path, monkeypatch):
    whole = excite(tiny_config, paths, tmp_path / "whole", batch=1, neurons="0-2")
    calls = []

    def dies(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return find(*arguments, **named)

    find = library.find
    monkeypatch.setattr(library, "find", dies)
    with pytest.raises(KeyboardInterrupt):
        excite(tiny_config, paths, tmp_path / "again", batch=1, neurons="0-2")
    assert not (tmp_path / "again").exists()
    again = excite(tiny_config, paths, tmp_path / "again", batch=1, neurons="0-2")
    assert len(calls) == 4 + 4
    pd.testing.assert_frame_equal(again, whole)


@pytest.mark.parametrize(
    ("choice", "error", "problem"),
    [
        ({"neurons": "5-900"}, ConfigError, "there is no neuron 900"),
        ({"frames": 9}, ConfigError, "--frames 9"),
        ({"frames": 5000}, PredictionError, "No training trial has 5000 frames"),
        ({"model": MODEL, "mouse": -1}, ConfigError, "has no readout"),
        ({"model": "models:/nothing/1"}, TrackingError, "has no such version"),
    ],
)
def test_what_cannot_be_climbed_to_is_refused(tiny_config, paths, tmp_path, choice, error, problem):
    mice = list(tiny_config.dataset.mice)
    if "mouse" in choice:
        choice = choice | {"mouse": mice[choice["mouse"]], "folds": "0"}
    with pytest.raises(error, match=problem):
        excite(tiny_config, paths, tmp_path / "found", **choice)
    assert not (tmp_path / "found").exists()


def test_dead_neurons_are_named(tiny_config, paths, tmp_path, monkeypatch):
    subject = Target.subject

    def deaf(self, config, store):
        found = subject(self, config, store)
        for part in found._parts:
            part.member.register_forward_hook(lambda module, inputs, output: 0 * output)
        return found

    monkeypatch.setattr(Target, "subject", deaf)
    with pytest.raises(PredictionError, match="respond the same to every stimulus: 0, 1"):
        excite(tiny_config, paths, tmp_path / "found", MODEL, folds="0", neurons="0,1")
    assert not (tmp_path / "found").exists()


def recover(config, paths, output, model="simulation", **choice):
    reconstruct.run(config, paths, model, output=output, **({"steps": 40, "frames": 60, "mask": 0.0} | choice))
    return pd.read_parquet(output / "trials.parquet")


def test_held_out_movies_are_reconstructed(tiny_config, paths, store, held_out, tmp_path):
    found = recover(tiny_config, paths, tmp_path / "found")
    assert found["trial"].tolist() == held_out[:4]
    losses = pd.read_parquet(tmp_path / "found" / "losses.parquet").pivot(index="step", columns="trial", values="loss")
    assert (losses.loc[40] < losses.loc[0]).all()
    assert found["pixel_correlation"].between(-1, 1).all()
    movies = np.load(tmp_path / "found" / "reconstructed.npy")
    assert movies.shape == (found["frames"].sum(), *store.frame_shape)
    np.testing.assert_array_equal(np.load(tmp_path / "found" / "shown.npy")[:60], store.video(held_out[0])[:60])
    with Image.open(tmp_path / "found" / f"trial_{held_out[0]}.gif") as film:
        assert film.n_frames == 60


def test_neurons_can_be_left_out_and_shuffled(tiny_config, paths, held_out, tmp_path):
    chosen = {"trials": str(held_out[0]), "steps": 3}
    whole, few, shuffled = (
        recover(tiny_config, paths, tmp_path / str(number), **chosen, **choice).iloc[0]
        for number, choice in enumerate(({}, {"share": 0.1}, {"shuffle": True}))
    )
    assert (whole["neurons"], few["neurons"], shuffled["neurons"]) == (8, 1, 8)
    assert shuffled["true_loss"] > whole["true_loss"]


def test_the_models_of_one_fold_reconstruct_within_a_mask(tiny_config, paths, store, held_out, tmp_path):
    found = recover(tiny_config, paths, tmp_path / "found", MODEL, trials=str(held_out[1]), steps=3, radius=4)
    assert found[["trial", "models"]].to_numpy().tolist() == [[held_out[1], 1]]
    mask = np.load(tmp_path / "found" / "mask.npy")
    assert 10 < mask.sum() <= 57
    assert (np.load(tmp_path / "found" / "reconstructed.npy")[:, ~mask] == 127.5).all()


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"trials": "seen"}, "is not held out from fold 0"),
        ({"fold": 9}, "out of range"),
        ({"frames": 20}, "the first 32 are not compared"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(tiny_config, paths, held_out, tmp_path, choice, problem):
    if choice.get("trials") == "seen":
        choice = {"trials": f"{held_out[0]},{next(n for n in range(99) if n not in held_out)}"}
    with pytest.raises(ConfigError, match=problem):
        recover(tiny_config, paths, tmp_path / "found", **choice)
    assert not (tmp_path / "found").exists()


def test_models_of_another_table_of_folds_are_refused(tiny_config, paths, tmp_path, monkeypatch):
    read = checkpoint.read_info
    other = {"folds": "0" * 64}
    monkeypatch.setattr(checkpoint, "read_info", lambda folder: read(folder).model_copy(update={"provenance": other}))
    with pytest.raises(CheckpointError, match="another table of folds"):
        recover(tiny_config, paths, tmp_path / "found", MODEL)
    assert not (tmp_path / "found").exists()


def test_fewer_windows_cover_every_frame(tiny_config, paths, store):
    target = Target("model", {MODEL: [paths.fold(MODEL, fold) for fold in (0, 1)]}, "")
    subject = target.subject(tiny_config, store)
    movie = torch.from_numpy(store.video(0)[:50].astype(np.float32))[None]
    with torch.no_grad():
        whole = subject(movie)
        parts = [part(movie) for part in subject.separate(1)]
        thin = [part(movie) for part in subject.separate(100)]
    np.testing.assert_allclose(sum(parts).numpy() / 2, whole.numpy(), rtol=1e-4, atol=1e-6)
    assert all(part.isfinite().all() and part.shape == whole.shape for part in thin)


def test_a_gradient_is_the_same_in_batches(tiny_config, paths, store):
    subject = Target("model", {MODEL: [paths.fold(MODEL, 0)]}, "").subject(tiny_config, store)
    small = ModelSubject(subject._parts, mean_state(store), 3, torch.device("cpu"))
    gradients = []
    for model in (subject, small):
        movie = torch.from_numpy(store.video(0)[:40].astype(np.float32))[None].requires_grad_()
        gradients.append(torch.autograd.grad(model(movie).sum(), movie)[0].numpy())
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


def test_a_share_of_neurons_is_drawn_for_each_trial():
    neurons = np.arange(100, 200)
    kept = [reconstruction.keep(neurons, 0.25, 0, trial) for trial in (1, 1, 2)]
    assert len(set(kept[0])) == 25
    assert kept[0].tolist() == kept[1].tolist() != kept[2].tolist()
