"""A project with one trained experiment of random weights, and simulated neurons."""

from pathlib import Path

import pytest
import torch
from tiny import NEW_MOUSE, OLD_MOUSE, ROOT

from sensorium.config import Config, load
from sensorium.data.store import MouseStore
from sensorium.model import checkpoint
from sensorium.model.architecture import build
from sensorium.paths import Paths
from sensorium.recordings.synthetic.mouse import Recipe, Simulation
from sensorium.stages import ingest

EXPERIMENT, FOLDS = "true_batch_001", (0, 1)


@pytest.fixture(scope="session")
def project(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Stores of two mice, and folds that know the first one alone; read-only by agreement."""
    paths = Paths(tmp_path_factory.mktemp("insilico"))
    for mouse in (NEW_MOUSE, OLD_MOUSE):
        ingest.run(tiny_config, paths, mouse)
    store = MouseStore(paths.store(NEW_MOUSE))
    settings = tiny_config.experiments[EXPERIMENT].model
    for fold in FOLDS:
        torch.manual_seed(fold)
        info = checkpoint.ModelInfo(
            experiment=EXPERIMENT,
            fold=fold,
            model=settings,
            window=tiny_config.window,
            mice={store.name: store.neurons},
            units={store.name: checkpoint.digest_units(store.unit_ids)},
        )
        checkpoint.save(paths.fold(EXPERIMENT, fold), build(settings, [store.neurons]), info)
    return paths


@pytest.fixture
def store(project: Paths) -> MouseStore:
    return MouseStore(project.store(NEW_MOUSE))


@pytest.fixture(scope="session")
def simulation() -> Simulation:
    """The first mouse of the demonstration, with fewer neurons."""
    config = load(Path(ROOT) / "params.yaml")
    settings = config.synthetic.model_copy(update={"neurons": {NEW_MOUSE: 12}})
    return Simulation(Recipe(NEW_MOUSE, "new", settings))
