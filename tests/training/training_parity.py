"""Figures of the published solution for a small model, as the training tests use them."""

from pathlib import Path

import numpy as np
import torch

from sensorium.data.inputs import Batch, Targets
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.model.dwiseneuro_config import DwiseNeuroConfig
from sensorium.published import from_published

FIXTURES = Path(__file__).parent / "fixtures"
NEURONS = (7, 5, 9)
CANVAS = (64, 64)
CONFIG = DwiseNeuroConfig(
    canvas=CANVAS,
    features=(8, 8, 16, 16),
    strides=(2, 1, 2, 1),
    expansion=3,
    se_reduction=4,
    drop_path=0.0,
    cortex_features=(32, 64),
    cortex_drop_path=0.0,
    readout_dropout=0.0,
)

Figures = dict[str, np.ndarray]


def load_figures() -> Figures:
    with np.load(FIXTURES / "training_parity.npz") as archive:
        return dict(archive)


def group(figures: Figures, prefix: str) -> dict[str, torch.Tensor]:
    """The figures whose names begin with `prefix`, without it."""
    found = {name[len(prefix) :]: torch.tensor(value) for name, value in figures.items() if name.startswith(prefix)}
    assert found, prefix
    return found


def parity_model(figures: Figures) -> DwiseNeuro:
    model = DwiseNeuro(CONFIG, NEURONS)
    model.load_state_dict(from_published(group(figures, "weights|"), model.state_dict(), "fixture"))
    return model


def parity_inputs(figures: Figures) -> torch.Tensor:
    return torch.tensor(figures["forward|input_f16"]).float()


def parity_batch(figures: Figures) -> Batch:
    """The fixture's targets as a compact batch; its input is no video, see `parity_inputs`."""
    mice = torch.tensor(figures["loss|mice_weights"]).argmax(1)
    targets = {}
    for mouse in range(len(NEURONS)):
        rows = (mice == mouse).nonzero()[:, 0]
        targets[mouse] = Targets(rows, torch.tensor(figures[f"loss|target_mouse{mouse}"])[rows])
    empty = torch.zeros(len(mice), 0)
    return Batch(empty, empty, empty, mice, targets)
