"""Fixtures of the training tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from training_parity import Figures, load_figures


@pytest.fixture(scope="session")
def figures() -> Figures:
    return load_figures()
