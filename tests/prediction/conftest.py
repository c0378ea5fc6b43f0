"""Figures of the published solution that the tests of this folder compare with."""

from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def parity():
    """Reference arrays, by name."""
    with np.load(FIXTURES / "prediction_parity.npz") as archive:
        return dict(archive)
