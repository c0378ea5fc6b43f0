"""Fixtures of the sweep tests: a tiny project whose trainings take a second or two."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from sensorium.config import Config
from sensorium.paths import Paths
from sensorium.stages import folds, ingest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def ingested(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with stores and folds, to be copied."""
    root = tmp_path_factory.mktemp("ingested")
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_config.model_dump(mode="json"), sort_keys=False))
    shutil.copytree(ROOT / "conf", root / "conf")
    for mouse in tiny_config.dataset.mice:
        ingest.run(tiny_config, Paths(root), mouse)
    folds.run(tiny_config, Paths(root))
    return root


@pytest.fixture
def project(ingested: Path, tmp_path: Path) -> Path:
    """A project of one's own, ready to train: 3 mice, 4 steps an epoch, 2 epochs, a state every 2 steps."""
    return Path(shutil.copytree(ingested, tmp_path / "project"))
