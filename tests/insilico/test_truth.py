"""The methods recover the simulation's parameters from its noiseless rate."""

import numpy as np
import pandas as pd
import pytest
import torch

from sensorium.insilico import receptive_field, tuning
from sensorium.insilico.simulated import RateSubject
from sensorium.recordings.synthetic.neurons import Behavior
from sensorium.recordings.synthetic.truth import parameters

SHAPE = (18, 32)
STATE = (32.0, 9.0, 310.0, 240.0)


@pytest.fixture(scope="module")
def subject(simulation):
    return RateSubject(simulation, torch.tensor(STATE))


def difference(found, true):
    """Difference of orientations, degrees."""
    return np.abs((found - true + 90) % 180 - 90)


def test_the_subject_answers_as_the_simulation(subject, simulation):
    movies = np.random.default_rng(0).integers(0, 256, (2, 30, *SHAPE)).astype(np.uint8)
    dilation, speed, *centre = (np.full(30, value) for value in STATE)
    rates = [simulation.population.rate(movie, Behavior(dilation, speed, np.stack(centre))) for movie in movies]
    np.testing.assert_allclose(subject(torch.from_numpy(movies)), rates, atol=2e-3)
    chosen = np.array([7, 2])
    np.testing.assert_allclose(subject.select(chosen)(torch.from_numpy(movies)), np.array(rates)[:, chosen], atol=2e-3)


def test_behaviour_changes_the_rate(subject):
    still, running = (torch.tensor([32.0, speed, 310.0, 240.0]) for speed in (0.0, 40.0))
    movie = torch.full((1, 20, *SHAPE), 127.0)
    assert not torch.allclose(subject(movie, still), subject(movie, running))


def test_preferred_orientation(subject, simulation):
    found = tuning.measure(subject, lambda share: None, tuning.Gratings.every(16), SHAPE).tables["summary"]
    errors = difference(found["preferred_orientation"], parameters(simulation)["orientation"])
    assert errors.median() < 5


def test_centre_size_and_orientation_of_receptive_fields(subject, simulation):
    shares = []
    noise = receptive_field.Noise(SHAPE, seed=0, movies=100, gradient_movies=6)
    found = receptive_field.measure(subject, shares.append, noise).tables["summary"]
    assert sum(shares) == pytest.approx(1)
    truth = parameters(simulation)
    limits = {"gradient": (0.05, 0.5, 0.01), "noise": (2, 15, 0.2)}
    for method, (pixels, degrees, size) in limits.items():
        own = found[found["method"] == method].reset_index(drop=True)
        distance = np.hypot(own["row"] - truth["row"], own["column"] - truth["column"])
        assert distance.median() < pixels
        assert difference(own["orientation"], truth["orientation"]).median() < degrees
        assert (own["sigma"] / truth["sigma"] - 1).abs().median() < size


def test_the_noise_is_correlated_as_said():
    frames = torch.cat([receptive_field.noise_movie(1, number, SHAPE, 3, 200) for number in range(10)]).numpy()
    row = frames[:, 9, :] - frames[:, 9, :].mean()
    measured = np.corrcoef(row.T)
    np.testing.assert_allclose(measured, receptive_field.correlation(SHAPE[1], 3), atol=0.1)


def test_a_neuron_that_sees_nothing_has_no_centre():
    fit = receptive_field.fit_envelope(np.zeros((3, *SHAPE)))
    assert all(np.isnan(value) for value in fit.values())


def test_parameters_are_kept_beside_simulated_mice(raw_dataset, tiny_config):
    from tiny import NEW_MOUSE

    from sensorium.recordings.synthetic.mouse import Recipe, Simulation

    kept = pd.read_parquet(raw_dataset / ".truth" / NEW_MOUSE / "neurons.parquet")
    drawn = parameters(Simulation(Recipe(NEW_MOUSE, "new", tiny_config.synthetic)))
    pd.testing.assert_frame_equal(kept, drawn)
    assert kept["row"].between(-9, 27).all()
    weights = kept[["luminance", "simple", "complex", "running", "pupil"]]
    np.testing.assert_allclose((weights**2).sum(axis=1), 1)
