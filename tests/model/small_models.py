"""Models of awkward small sizes, and where the fixtures lie."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.model.dwiseneuro_config import DwiseNeuroConfig

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
PUBLISHED = FIXTURES / "model-002-0.123456.pth"

SMALL = DwiseNeuroConfig(
    canvas=(9, 14),
    features=(4, 6, 10),
    strides=(2, 1, 3),
    temporal_kernel=3,
    expansion=3,
    se_reduction=4,
    drop_path=0.1,
    cortex_features=(12, 16),
    cortex_drop_path=0.1,
    readout_dropout=0.2,
)
"""Sizes that no stride, group or axis share divides evenly."""


def random_model(config: DwiseNeuroConfig = SMALL, neurons: tuple[int, ...] = (5, 3), seed: int = 0) -> DwiseNeuro:
    """A model whose norms are not the identity either."""
    torch.manual_seed(seed)
    model = DwiseNeuro(config, neurons)
    for name, entry in model.state_dict().items():
        if name.endswith(("norm.weight", "running_var", "shortcut.weight")):
            entry.uniform_(0.5, 2.0)
        elif name.endswith(("bias", "running_mean")):
            entry.normal_(std=0.3)
    return model


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


@contextlib.contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """Let the system refuse to make any file longer than `largest` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
