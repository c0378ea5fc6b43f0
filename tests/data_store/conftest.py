"""Stores and folds of the tiny dataset, built once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.paths import Paths
from sensorium.stages import folds, ingest


@pytest.fixture(scope="session")
def built(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A project with the stores of all tiny mice and their folds; read-only by agreement."""
    paths = Paths(tmp_path_factory.mktemp("built"))
    for mouse in tiny_config.dataset.mice:
        ingest.run(tiny_config, paths, mouse)
    folds.run(tiny_config, paths)
    return paths


@pytest.fixture(scope="session")
def stores(built: Paths, tiny_config: Config) -> list[MouseStore]:
    return [MouseStore(built.store(mouse)) for mouse in tiny_config.dataset.mice]


@pytest.fixture(scope="session")
def table(built: Paths) -> Folds:
    return Folds.load(built.folds)


@pytest.fixture(scope="session")
def parity() -> dict[str, np.ndarray]:
    """Figures of the published solution."""
    with np.load(Path(__file__).parents[1] / "fixtures" / "data_parity.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def with_raw(tiny_config: Config) -> Callable[[Path], Config]:
    """The tiny settings with another raw folder."""

    def change(raw: Path) -> Config:
        dataset = tiny_config.dataset.model_copy(update={"raw": str(raw)})
        return tiny_config.model_copy(update={"dataset": dataset})

    return change
