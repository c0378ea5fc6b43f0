"""A small published checkpoint, the figures its model gives, and the plain form to compare with."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest
import torch
from small_models import FIXTURES, PUBLISHED, ROOT

from sensorium import published
from sensorium.model.dwiseneuro import DwiseNeuro


@pytest.fixture(scope="session")
def figures() -> dict[str, torch.Tensor]:
    with np.load(FIXTURES / "model_parity.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}


@pytest.fixture
def published_model() -> DwiseNeuro:
    params, entries = published.read(PUBLISHED)
    config, _, neurons = published.settings(params, (64, 64), PUBLISHED.name)
    model = DwiseNeuro(config, neurons)
    model.load_state_dict(published.from_published(entries, model.state_dict(), PUBLISHED.name))
    return model


@pytest.fixture(scope="session")
def plain_form() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_form", ROOT / "benchmarks" / "plain_form.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
