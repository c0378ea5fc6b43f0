"""Most exciting inputs of a model whose answer is known."""

import numpy as np
import pytest
import torch

from sensorium.errors import PredictionError
from sensorium.gratings import GREY
from sensorium.insilico.most_exciting import Ascent, best_natural, contrast, find, with_contrast

SHAPE, FRAMES = (6, 8), 8


class Linear:
    """Softplus of a projection of each frame on a filter of each neuron; the last neuron is dead."""

    def __init__(self, filters):
        self.filters = torch.from_numpy(filters).float()
        self.neurons = len(filters)

    def __call__(self, movies):
        drive = torch.einsum("blhw,nhw->bnl", movies - GREY, self.filters)
        return torch.nn.functional.softplus(drive / 10)


@pytest.fixture
def filters():
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    blob = np.exp(-((rows - 2) ** 2 + (columns - 3) ** 2) / 8)
    return np.stack([blob, -blob, blob * (columns - 3), np.zeros(SHAPE)])


def similarity(image, wanted):
    return np.corrcoef(image.ravel(), wanted.ravel())[0, 1]


def test_the_image_of_a_linear_neuron_is_its_filter(filters):
    found = find(Linear(filters[:3]), np.full(3, 20.0), SHAPE, Ascent(FRAMES, False, smoothing=0.5), seed=1)
    assert found.movies.shape == (3, 1, *SHAPE)
    for image, wanted in zip(found.movies, filters, strict=False):
        assert similarity(image[0] - GREY, wanted) > 0.9
        assert np.sqrt(np.mean((image - GREY) ** 2)) == pytest.approx(20, rel=1e-3)
    assert not found.dead.any()


def test_a_movie_is_found_where_its_second_half_counts(filters):
    found = find(Linear(filters[2:3]), np.array([15.0]), SHAPE, Ascent(FRAMES, True, smoothing=0.5), seed=1)
    energy = np.square(found.movies[0] - GREY).mean((1, 2))
    assert found.movies.shape == (1, FRAMES, *SHAPE)
    assert energy[FRAMES // 2 + 1 :].min() > 2 * energy[: FRAMES // 2 - 1].max()


def test_a_result_depends_on_its_neuron_alone(filters):
    ascent = Ascent(FRAMES, False, steps=5)
    together = find(Linear(filters[:2]), np.array([20.0, 30.0]), SHAPE, ascent, seed=1)
    alone = find(Linear(filters[1:2]), np.array([30.0]), SHAPE, ascent, seed=1)
    np.testing.assert_allclose(together.movies[1], alone.movies[0], rtol=1e-5)
    other = find(Linear(filters[1:2]), np.array([30.0]), SHAPE, ascent, seed=2)
    assert np.abs(other.movies - alone.movies).max() > 1


def test_a_dead_neuron_is_known_by_its_gradient(filters):
    found = find(Linear(filters[[0, 3]]), np.full(2, 20.0), SHAPE, Ascent(FRAMES, False, steps=3), seed=1)
    assert found.dead.tolist() == [False, True]
    assert np.isfinite(found.movies).all()


def test_divergence_ends_the_ascent(filters):
    filters[2] = np.nan
    with pytest.raises(PredictionError, match="the ascent diverged"):
        find(Linear(filters), np.full(4, 20.0), SHAPE, Ascent(FRAMES, False, steps=3), seed=1)


def test_contrast_is_held_within_the_range_of_grey_levels():
    stimuli = GREY + 5 * torch.randn((3, 1, *SHAPE), generator=torch.Generator().manual_seed(0))
    scaled = with_contrast(stimuli, torch.tensor([1.0, 30.0, 120.0]))
    assert scaled.min() >= 0
    assert scaled.max() <= 255
    np.testing.assert_allclose(contrast(scaled)[:2], [1, 30], rtol=1e-3)
    grey = with_contrast(torch.full((1, 1, *SHAPE), GREY), torch.tensor([10.0]))
    assert (grey == GREY).all()


def test_the_best_natural_stimulus_of_each_neuron_is_kept(filters):
    images = [torch.full((1, *SHAPE), GREY) for _ in range(5)]
    blob = torch.from_numpy(filters[0]).float()
    images[3] += 20 * blob
    images[4] -= 10 * blob

    def stimuli():
        return iter([(7, place, image) for place, image in enumerate(images)])

    natural = best_natural(Linear(filters), stimuli(), FRAMES, batch=2)
    assert natural.places[:2].tolist() == [[7, 3], [7, 4]]
    assert natural.contrasts[0] == pytest.approx(2 * natural.contrasts[1], rel=1e-3)
    equal = best_natural(Linear(filters), stimuli(), FRAMES, batch=2, wanted=12.0)
    np.testing.assert_allclose(equal.contrasts[:2], 12, rtol=1e-3)
    assert equal.responses[0] == pytest.approx(equal.responses[1], rel=1e-3)
    with pytest.raises(PredictionError, match="No training trial"):
        best_natural(Linear(filters), iter([]), FRAMES, batch=2)
