"""A project with trained folds and a tracking store of its own, in a temporary folder."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from sensorium.config import Config, parse
from sensorium.paths import Paths
from sensorium.tracking.store import Store

_ROOT = Path(__file__).parents[2]


@dataclass
class Project:
    """A project's settings and files."""

    config: Config
    paths: Paths

    @property
    def store(self):
        return Store.of(self.paths)

    def train(self, experiment, seed=0):
        """Pretend to train: small weights that depend on the fold and the seed."""
        for fold in self.config.folds.train.values():
            folder = self.paths.fold(experiment, fold)
            folder.mkdir(parents=True, exist_ok=True)
            generator = np.random.default_rng([seed, fold, len(experiment)])
            save_file({"weight": generator.random(1000, dtype=np.float32)}, folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps({"experiment": experiment, "fold": fold}))
            (folder / "history.csv").write_text("epoch\n0\n")

    def score(self, value=0.3):
        self.paths.evaluation.mkdir(parents=True, exist_ok=True)
        (self.paths.evaluation / "metrics.json").write_text(json.dumps({"ensemble": value}))


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory):
    """An initialised SQLite store to copy: making one takes seconds."""
    root = tmp_path_factory.mktemp("database")
    Store.of(Paths(root)).client()
    return root / "mlflow.db"


@pytest.fixture
def bare_project(tmp_path, monkeypatch):
    """A project without a tracking store, outside any repository."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "False")
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(_ROOT / "params.yaml", tmp_path / "params.yaml")
    tree = yaml.safe_load((_ROOT / "conf" / "preset" / "demo.yaml").read_text())
    return Project(parse(tree, "demo.yaml"), Paths(tmp_path))


@pytest.fixture
def project(bare_project, fresh_database):
    """A project with an empty embedded store."""
    shutil.copyfile(fresh_database, bare_project.paths.root / "mlflow.db")
    return bare_project


@pytest.fixture
def trained(project):
    """A project whose teacher and student are trained and scored."""
    project.train("true_batch_001")
    project.train("distillation_001")
    project.score()
    return project
