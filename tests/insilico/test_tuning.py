"""Gratings, and the indices of curves that are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from sensorium.gratings import grating
from sensorium.insilico import tuning

DIRECTIONS = np.arange(16) * 22.5


def responses(curves):
    """A table of responses over direction, one curve per neuron, at one pair of frequencies."""
    parts = [
        pd.DataFrame(
            {
                "direction": DIRECTIONS,
                "spatial_frequency": 1.0,
                "temporal_frequency": 2.0,
                "contrast": 1.0,
                "neuron": neuron,
                "response": curve,
            }
        )
        for neuron, curve in enumerate(curves)
    ]
    return pd.concat(parts, ignore_index=True)


def test_a_grating_moves_in_its_direction():
    height, width = 36, 64
    movie = grating((0.0, 1.0, 2.0, 1.0), 30, (height, width)).numpy()
    np.testing.assert_allclose(movie[:, 0], movie[:, -1], atol=1e-3)  # vertical bars
    moved = 2.0 / 30 * height  # pixels a frame: 2 Hz over 1 cycle per height
    np.testing.assert_allclose(np.roll(movie[0, 0, :height], round(5 * moved)), movie[5, 0, :height], atol=1)
    upright = grating((90.0, 1.0, 2.0, 0.5), 30, (height, width)).numpy()
    np.testing.assert_allclose(upright[:, :, 0], upright[:, :, -1], atol=1e-3)
    assert upright.min() == pytest.approx(127.5 / 2, abs=0.5)
    assert upright.max() == pytest.approx(127.5 * 1.5, abs=0.5)


def test_indices_of_known_curves():
    oriented = 1 + np.cos(2 * np.deg2rad(DIRECTIONS - 45))  # circular variance 1/2, no preference for a direction
    directed = 1 + np.cos(np.deg2rad(DIRECTIONS - 90))
    flat = np.full(16, 3.0)
    found = tuning.summarise(responses([oriented, directed, flat]))
    assert found["osi"].tolist() == pytest.approx([0.5, 0, 0], abs=1e-12)
    assert found["dsi"].tolist() == pytest.approx([0, 0.5, 0], abs=1e-12)
    assert found["osi_peak"].tolist() == pytest.approx([1, 1 / 3, 0], abs=1e-12)
    assert found["dsi_peak"].tolist() == pytest.approx([0, 1, 0], abs=1e-12)
    assert found["preferred_orientation"][0] == pytest.approx(135)  # bars are perpendicular to their movement
    assert found["preferred_direction"].tolist()[:2] == [45, 90]
    assert found["speed"].tolist() == [2, 2, 2]
    assert np.isnan(found["preferred_direction"][2])
    assert np.isnan(found["preferred_orientation"][2])


class Oriented:
    """Answers with the contrast of what moves; its second neuron is blind."""

    neurons = 2
    shortest = 1

    def __call__(self, movies, states=None):
        seen = movies[:, :, 0].std(dim=2)  # along the first row: vertical bars alone
        return torch.stack([seen, torch.ones_like(seen)], dim=1)


def test_the_contrast_curve_is_at_the_preferred_grating():
    gratings = tuning.Gratings([0.0, 90.0, 180.0, 270.0], (1.0, 2.0), (2.0,), (0.25, 0.5))
    found = tuning.measure(Oriented(), lambda share: None, gratings, (18, 32)).tables
    assert len(found["responses"]) == 4 * 2 * 2
    curve = found["contrast"]
    assert curve["neuron"].unique().tolist() == [0]  # the blind neuron prefers nothing
    assert curve["contrast"].tolist() == [0.25, 0.5, 1.0]
    assert curve["direction"].isin([0.0, 180.0]).all()
    np.testing.assert_allclose(curve["response"] / curve["response"].max(), [0.25, 0.5, 1], rtol=1e-3)
    assert found["summary"]["preferred_orientation"][0] == pytest.approx(90)
