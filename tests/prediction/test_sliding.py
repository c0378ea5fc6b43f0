"""Sliding-window prediction against the published figures, and what batches must not change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import preset_tree

from sensorium import published
from sensorium.config import WindowConfig, parse
from sensorium.errors import ConfigError, PredictionError
from sensorium.inference.member import Member
from sensorium.inference.sliding import SlidingPredictor, TrialInput, coverage, prediction_device, trial_groups
from sensorium.model.architecture import build
from sensorium.model.dwiseneuro import DwiseNeuro

ROOT = Path(__file__).parents[2]
WINDOW = WindowConfig(frames=16, step=2)


@pytest.fixture(scope="session")
def published_model(request):
    """A function that builds the published fixture model anew."""
    path = request.config.rootpath / "tests" / "fixtures" / "model-002-0.123456.pth"

    def build():
        params, state = published.read(path)
        config, window, neurons = published.settings(params, (64, 64), path.name)
        model = DwiseNeuro(config, neurons)
        model.load_state_dict(published.from_published(state, model.state_dict(), path.name))
        return model, window

    return build


@pytest.fixture
def member(published_model):
    model, window = published_model()
    return Member(model, 1, window)


@pytest.fixture
def trial(parity):
    states = np.concatenate([parity["predict|behavior"], parity["predict|pupil_center"]]).T
    video = parity["predict|video_u8"].transpose(2, 0, 1)
    return TrialInput("trial", torch.from_numpy(video.copy()), torch.from_numpy(states.copy()))


def predictor(*members, batch_size=64, precision="32-true"):
    return SlidingPredictor(members, batch_size, precision, torch.device("cpu"))


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_prediction_equals_the_published(member, trial, parity, batch_size):
    found = predictor(member, batch_size=batch_size).predict([trial])[0]
    assert found.dtype == np.float32
    assert relative_error(found, parity["predict|trial_mouse1_f32"]) < 1e-5
    np.testing.assert_allclose(found, parity["predict|trial_mouse1_f32"], atol=1e-5 * np.abs(found).max(), rtol=0)


def test_mixed_precision_stays_close(member, trial, parity):
    found = predictor(member, precision="bf16-mixed").predict([trial])[0]
    assert found.dtype == np.float32
    assert 1e-6 < relative_error(found, parity["predict|trial_mouse1_f32"]) < 0.02


def test_half_precision_is_finite_and_closer_than_bfloat16(member, trial):
    short = TrialInput("short", trial.video[:33], trial.states[:33])
    exact, half, brain = (
        predictor(member, precision=name).predict([short])[0] for name in ("32-true", "16-mixed", "bf16-mixed")
    )
    assert np.isfinite(half).all()
    assert 1e-6 < relative_error(half, exact) < 0.005
    assert relative_error(half, exact) < relative_error(brain, exact)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a processor does")
def test_half_precision_on_a_processor_is_told_to_be_slow(capsys):
    assert prediction_device("auto", "16-mixed") == "cpu"
    assert "bf16-mixed is the fast choice" in capsys.readouterr().err
    assert prediction_device("auto", "32-true") == "cpu"
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ConfigError, match=r"runtime\.accelerator: cuda is asked for"):
        prediction_device("cuda", "32-true")


def test_coverage_is_that_of_the_published_window(parity):
    behind, ahead, width = parity["windows|behind_ahead_width"]
    assert (behind, ahead, width) == (30, 0, WINDOW.width)
    counts = np.zeros(60, np.int64)
    for end in range(behind, 60 - ahead):
        counts[parity["windows|at_30"] + end - 30] += 1
    assert coverage(60, WINDOW).tolist() == counts.tolist()


def test_trials_that_share_batches_do_not_mix(member, trial):
    short = TrialInput("short", trial.video[7:50], trial.states[7:50])
    together = predictor(member, batch_size=20).predict([short, trial, short])
    for found, alone in zip(together, (short, trial, short), strict=True):
        expected = predictor(member).predict([alone])[0]
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-5


def test_several_models_have_an_equal_say(published_model, trial):
    members = []
    for seed in range(3):
        model, window = published_model()
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data *= 1 + 0.1 * torch.rand(parameter.shape, generator=generator)
        members.append(Member(model, 1, window))
    alone = [predictor(member).predict([trial])[0] for member in members]
    assert relative_error(alone[0], alone[1]) > 1e-3
    assert relative_error(predictor(*members).predict([trial])[0], np.mean(alone, 0)) < 1e-6


def test_another_readout_is_not_kept(published_model):
    model, window = published_model()
    whole = sum(parameter.numel() for parameter in model.parameters())
    member = Member(model, 2, window)
    assert member.neurons == 9
    assert sum(parameter.numel() for parameter in member.parameters()) < whole


@pytest.mark.parametrize("frames", [32, 33])
def test_the_shortest_trials_are_covered(member, trial, frames):
    assert WINDOW.shortest_trial == 32
    found = predictor(member).predict([TrialInput("short", trial.video[:frames], trial.states[:frames])])[0]
    assert found.shape == (5, frames)
    assert np.isfinite(found).all()


def test_a_trial_with_uncovered_frames_is_refused(member, trial):
    short = TrialInput("mouse, trial 3", trial.video[:31], trial.states[:31])
    with pytest.raises(PredictionError, match="mouse, trial 3: 31 frames are too short") as caught:
        predictor(member).predict([short])
    assert "none" in str(caught.value)


def test_full_size_models_take_batches_that_fit(tiny_config):
    competition = parse(preset_tree("competition"), "competition")
    with torch.device("meta"):
        full, tiny = (build(config.experiments["true_batch_001"].model, [8]) for config in (competition, tiny_config))
    assert Member(full, 0, WINDOW).window_bytes == 4 * 64 * 7 * 64 * 64 * 16
    assert Member(tiny, 0, WINDOW).window_bytes < 2**20


def test_groups_fill_batches_and_depend_on_lengths_alone():
    assert trial_groups([300, 300, 40, 40, 300], WINDOW, 64) == [[0], [1], [2, 3, 4]]
    assert trial_groups([40] * 13, WINDOW, 64) == [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    assert trial_groups([], WINDOW, 64) == []
