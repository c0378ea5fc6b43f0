"""A project with trained folds and a tracking store of its own, in a temporary folder."""

import contextlib
import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import preset_tree

from sensorium.config import Config, parse
from sensorium.model import checkpoint
from sensorium.model.checkpoint import ModelInfo
from sensorium.model.dwiseneuro import DwiseNeuro
from sensorium.paths import Paths
from sensorium.registry.model_registry import DIGEST, EXISTS, ModelRegistry, none_on
from sensorium.stages import register
from sensorium.tracking import recorder
from sensorium.tracking.store import TrackingStore
from sensorium.tracking.uploader import Uploader

_ROOT = Path(__file__).parents[2]
_SMALL = {"canvas": [8, 8], "features": [4], "strides": [2], "expansion": 2, "se_reduction": 2, "cortex_features": [8]}


@pytest.fixture
def inline(monkeypatch):
    """Trainings upload in this process when they end: what arrives is the same, without the wait."""
    monkeypatch.setattr(recorder, "ensure_running", lambda _store, **_options: None)
    monkeypatch.setattr(recorder, "_await_upload", lambda log, store, _: Uploader(log, store).upload())


@dataclass
class Project:
    """A project's settings and files."""

    config: Config
    paths: Paths

    @property
    def store(self):
        return TrackingStore.of(self.paths)

    def train(self, experiment, seed=0):
        """Pretend to train: first weights that depend on the fold and the seed."""
        settings = self.config.experiment(experiment).model
        mice = {mouse: 3 + number for number, mouse in enumerate(self.config.dataset.mice)}
        for fold in self.config.folds.train.values():
            torch.manual_seed(1000 * seed + 10 * fold + len(experiment))
            known = {"experiment": experiment, "fold": fold, "seed": seed}
            info = ModelInfo(
                experiment=experiment, fold=fold, model=settings, window=self.config.window, mice=mice, provenance=known
            )
            model = DwiseNeuro(settings, list(mice.values()))
            checkpoint.save(self.paths.fold(experiment, fold), model, info, {"history.csv": "epoch\n0\n"})

    def score(self, value=0.3, spread=0.01):
        """Pretend to evaluate: scores around a value, by mouse and fold."""
        self.paths.evaluation.mkdir(parents=True, exist_ok=True)
        sources = {"true_batch_001": value - 0.02, "distillation_001": value - 0.01, "ensemble": value}
        mice = {mouse: {"single_trial_correlation": sources} for mouse in self.config.dataset.mice}
        scores = {"single_trial_correlation": sources, "published_variant": sources, "mice": mice}
        (self.paths.evaluation / "metrics.json").write_text(json.dumps(scores))
        rows = ["source,mouse,fold,tier,single_trial_correlation", f"ensemble,all,all,all,{value}"]
        for number, mouse in enumerate([*self.config.dataset.mice, "all"]):
            for fold in (*self.config.folds.train.values(), "all"):
                noise = spread * np.sin(7 * number + (3 * fold if fold != "all" else 1))
                rows.append(f"ensemble,{mouse},{fold},all,{value + noise}")
                rows.append(f"ensemble,{mouse},{fold},train,{value - 1}")
                rows.append(f"true_batch_001,{mouse},{fold},all,{value - 2}")
        (self.paths.evaluation / "scores.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def register_copies(monkeypatch):
    """Register a pair as earlier releases did: with copies in MLflow's artifact store and none in DVC's cache."""

    def create(registry, new):
        none_on((EXISTS,), registry.client.create_registered_model, new.name)
        experiment = registry.store.experiment_id(registry.client, "sensorium-demo")
        model = registry.client.create_logged_model(experiment, name=new.name)
        registry._fill(model.artifact_location, new)
        made = registry.client.create_model_version(
            new.name, model.artifact_location, tags={**new.tags, DIGEST: new.digest}, model_id=model.model_id
        )
        return int(made.version)

    def run(project):
        with monkeypatch.context() as patch:
            patch.setattr(ModelRegistry, "_create", create)
            register.run(project.config, project.paths)
        assert not (project.paths.root / ".dvc").exists()

    return run


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory):
    """An initialised SQLite store to copy: making one takes seconds."""
    root = tmp_path_factory.mktemp("database")
    TrackingStore.of(Paths(root)).client()
    return root / "mlflow.db"


def make_project(root):
    """A project in an empty folder, with the settings of the demonstration and small models."""
    shutil.copyfile(_ROOT / "params.yaml", root / "params.yaml")
    tree = preset_tree("demo", "experiment=[true_batch_001,distillation_001]")
    for experiment in tree["experiments"].values():
        experiment["model"] |= _SMALL
    return Project(parse(tree, "demo.yaml"), Paths(root))


@pytest.fixture(scope="session")
def new_project():
    """`make_project`, for fixtures of other files."""
    return make_project


@pytest.fixture
def bare_project(tmp_path, monkeypatch):
    """A project without a tracking store, outside any repository."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "False")
    monkeypatch.chdir(tmp_path)
    project = make_project(tmp_path)
    yield project
    shutil.rmtree(project.paths.state, ignore_errors=True)  # its uploader, whose starter runs on, ends with it


@pytest.fixture
def project(bare_project, fresh_database):
    """A project with an empty embedded store, as if it had been made there."""
    root = bare_project.paths.root
    shutil.copyfile(fresh_database, root / "mlflow.db")
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", ((root / "mlartifacts" / "0").as_uri(),))
    return bare_project


@pytest.fixture
def trained(project):
    """A project whose teacher and student are trained and scored."""
    project.train("true_batch_001")
    project.train("distillation_001")
    project.score()
    return project
