"""Reconstruction of movies from the answers of models that are known, and the tools around it."""

import numpy as np
import pytest
import torch
from PIL import Image

from sensorium.errors import PredictionError
from sensorium.gratings import GREY
from sensorium.insilico.reconstruction import (
    Descent,
    disc,
    pixel_correlation,
    reconstruct,
    sensitivity,
    write_film,
)

SHAPE, FRAMES = (4, 5), 12
WHOLE = np.ones(SHAPE, bool)


class Random:
    """Each neuron sees a random part of every frame, and of the one before."""

    shortest = 2

    def __init__(self, neurons, seed=0, pixels=WHOLE):
        rng = np.random.default_rng(seed)
        self.filters = torch.from_numpy(rng.standard_normal((2, neurons, *SHAPE)) * pixels).float()
        self.neurons = neurons

    def __call__(self, movies):
        seen = movies - GREY
        past = torch.cat([seen[:, :1], seen[:, :-1]], 1)
        drive = torch.einsum("blhw,nhw->bnl", seen, self.filters[0])
        drive = drive + 0.5 * torch.einsum("blhw,nhw->bnl", past, self.filters[1])
        return torch.nn.functional.softplus(drive / 100) + 0.1


@pytest.fixture
def movie():
    return np.random.default_rng(1).uniform(80, 175, (FRAMES, *SHAPE)).astype(np.float32)


def answers(subject, movie):
    with torch.no_grad():
        return subject(torch.from_numpy(movie)[None])[0].numpy()


def correlation(neurons, movie, members=1, **choice):
    """Pixel correlation of the reconstruction from noiseless responses of 60 neurons."""
    truth = Random(60)
    subjects = [truth for _ in range(members)]
    found = reconstruct(subjects, answers(truth, movie), neurons, WHOLE, Descent(rate=2, smoothing=0, **choice))
    assert found.losses[-1] < found.losses[0]
    return pixel_correlation(found.movie, movie, WHOLE)


def test_noiseless_responses_of_enough_neurons_give_the_movie(movie):
    assert correlation(np.arange(60), movie, steps=300) > 0.95


def test_fewer_neurons_give_less_of_it(movie):
    few, some, all_of_them = (correlation(np.arange(count), movie, steps=150) for count in (3, 10, 60))
    assert few < some < all_of_them


def test_shuffled_neurons_give_nothing(movie):
    truth = Random(60)
    shuffled = np.random.default_rng(0).permutation(answers(truth, movie))
    found = reconstruct([truth], shuffled, np.arange(60), WHOLE, Descent(smoothing=0, rate=2, steps=150))
    assert abs(pixel_correlation(found.movie, movie, WHOLE)) < 0.3


def test_several_models_of_unequal_errors_are_better_than_one(movie):
    truth = Random(60)
    responses = answers(truth, movie)

    def wrong(seed):
        model = Random(60)
        noise = torch.randn(model.filters.shape, generator=torch.Generator().manual_seed(seed))
        model.filters = model.filters + 2 * noise
        return model

    def quality(models):
        found = reconstruct(models, responses, np.arange(60), WHOLE, Descent(smoothing=0, rate=2, steps=100))
        return pixel_correlation(found.movie, movie, WHOLE)

    models = [wrong(seed) for seed in range(5)]
    assert quality(models) > np.mean([quality([model]) for model in models])


def test_only_the_mask_changes(movie):
    mask = disc(SHAPE, (1.5, 2), 1.6)
    truth = Random(20)
    found = reconstruct([truth], answers(truth, movie), np.arange(20), mask, Descent(steps=20, smoothing=1.0))
    assert (found.movie[:, ~mask] == GREY).all()
    assert (found.movie[:, mask] != GREY).all()
    assert found.movie.min() >= 0
    assert found.movie.max() <= 255


def test_the_sensitivity_shows_where_neurons_look():
    seen = disc(SHAPE, (1, 1), 1)
    found = sensitivity(Random(30, pixels=seen), SHAPE, seed=0)
    assert found.max() == 1
    assert found[seen].min() > found[:, 4].max()
    with pytest.raises(PredictionError, match="no pixel changes"):
        sensitivity(Random(30, pixels=~WHOLE), SHAPE, seed=0)


@pytest.mark.parametrize(("scale", "problem"), [(0.0, "no pixel of the mask"), (float("nan"), "diverged")])
def test_a_descent_that_cannot_go_on_says_so(movie, scale, problem):
    truth = Random(20)
    responses = answers(truth, movie)
    truth.filters = truth.filters * scale
    with pytest.raises(PredictionError, match=problem):
        reconstruct([truth], responses, np.arange(20), WHOLE, Descent(smoothing=0, rate=2, steps=3))


def test_pixel_correlation_is_taken_over_space_and_time_within_the_mask(movie):
    mask = disc(SHAPE, (1, 1), 1)
    other = np.where(mask, 3 * movie + 7, 0)
    assert pixel_correlation(other, movie, mask) == pytest.approx(1)
    expected = np.corrcoef(other.ravel(), movie.ravel())[0, 1]
    assert pixel_correlation(other, movie, WHOLE) == pytest.approx(expected)
    assert np.isnan(pixel_correlation(np.zeros_like(movie), movie, WHOLE))


def test_a_film_shows_both_movies(tmp_path, movie):
    mask = disc(SHAPE, (1, 1), 1)
    write_film(tmp_path / "film.gif", [movie, 255 - movie], mask)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == FRAMES
        assert film.size == (4 * (2 * SHAPE[1] + 3), 4 * SHAPE[0])
        first = np.asarray(film.convert("L"), float)[::4, ::4]
    shown = np.where(mask, movie[0], GREY)
    np.testing.assert_allclose(first[:, 1 : 1 + SHAPE[1]], shown, atol=4)
    assert (first[:, 0] == 255).all()
