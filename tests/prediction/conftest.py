"""A project with stores, folds and made-up predictions, and figures of the published solution."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from prediction_runs import STUDENT, TEACHER, train

from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.inference.predictions import publish_predictions, write_prediction
from sensorium.mice import TEST_TIERS
from sensorium.paths import Paths
from sensorium.stages import folds, ingest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def parity() -> dict[str, np.ndarray]:
    """Reference arrays, by name."""
    with np.load(FIXTURES / "prediction_parity.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def built(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A project with stores and folds of all tiny mice; read-only by agreement."""
    paths = Paths(tmp_path_factory.mktemp("built"))
    for mouse in tiny_config.dataset.mice:
        ingest.run(tiny_config, paths, mouse)
    folds.run(tiny_config, paths)
    return paths


@pytest.fixture
def project(built: Paths, tmp_path: Path) -> Paths:
    """A private project that shares stores and folds with `built`."""
    paths = Paths(tmp_path / "project")
    (paths.root / "data").mkdir(parents=True)
    paths.stores.symlink_to(built.stores)
    shutil.copytree(built.folds, paths.folds)
    return paths


@pytest.fixture
def stores(project: Paths, tiny_config: Config) -> list[MouseStore]:
    return [MouseStore(project.store(mouse)) for mouse in tiny_config.dataset.mice]


@pytest.fixture
def table(project: Paths) -> Folds:
    return Folds.load(project.folds)


@pytest.fixture
def make_predictions(project: Paths, stores: list[MouseStore], table: Folds) -> Callable[..., Path]:
    """A function that writes made-up predictions of a split: the noiseless rate, plus noise of a given size."""

    def trials(store: MouseStore, split: str) -> list[int]:
        if split in TEST_TIERS:
            return np.flatnonzero(store.tiers == split).tolist() if store.mouse_set == "new" else []
        return np.flatnonzero(table.of(store.name) >= 0).tolist()

    def make(experiment: str, split: str, noise: float = 1.0, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        folder = project.predictions(experiment, split)
        work = project.state / "making"
        for store in stores:
            for trial in trials(store, split):
                truth = store.truth(trial).T
                write_prediction(work, store.name, trial, (truth + noise * rng.random(truth.shape)).astype(np.float32))
        parts = [{"mouse": store.name, "recordings": "0" * 64, "weights": {experiment: ["1" * 64]}} for store in stores]
        publish_predictions(work, folder, {"split": split, "assignments": parts})
        return folder

    return make


@pytest.fixture
def pretend_training(project: Paths, tiny_config: Config) -> Callable[[], None]:
    """A function that leaves the learning curves of all folds, as training does."""

    def pretend() -> None:
        for experiment in tiny_config.experiments:
            for fold in tiny_config.folds.train.values():
                folder = project.fold(experiment, fold)
                folder.mkdir(parents=True)
                rows = "".join(f"{epoch},{5 - epoch},{0.1 * epoch + 0.01 * fold}\n" for epoch in range(3))
                (folder / "history.csv").write_text(f"epoch,train_loss,val_correlation\n{rows}")

    return pretend


@pytest.fixture
def trained(tiny_config: Config, project: Paths, stores: list[MouseStore]) -> Paths:
    """The project with random weights as the trained folds of teacher and student."""
    for experiment in (TEACHER, STUDENT):
        for fold in tiny_config.folds.train.values():
            train(tiny_config, project, stores, experiment, fold)
    return project


@pytest.fixture
def loadable(project: Paths, tiny_config: Config, stores: list[MouseStore]) -> Paths:
    """A project with two folds of two experiments, and its settings on disk."""
    for experiment in (TEACHER, STUDENT):
        for fold in (0, 1):
            train(tiny_config, project, stores, experiment, fold)
    (project.root / "params.yaml").write_text(yaml.safe_dump(tiny_config.model_dump(mode="json")))
    return project
