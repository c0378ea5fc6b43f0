"""Training that starts from another experiment's folds, and the learning curve that shows what it is worth."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import NEW_MOUSE, derived
from training_runs import EXPERIMENT, change_params, finish, train_here

from sensorium.config import Config, load, parse
from sensorium.data.dataset import TrainingData
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import CheckpointError, ConfigError
from sensorium.model import checkpoint
from sensorium.model.architecture import AnyModel, build
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.training.transfer import freeze

TRANSFER = "transfer_001"
SHARED = ("core.", "cortex.")


def add_transfer(root: Path, freeze: str = "core+cortex", **training: object) -> None:
    """Add an experiment that starts from the first one."""
    path = root / PARAMS_FILE
    tree = yaml.safe_load(path.read_text())
    experiment = copy.deepcopy(tree["experiments"][EXPERIMENT])
    experiment["start"] = {"experiment": EXPERIMENT, "freeze": freeze}
    experiment["training"] |= training
    tree["experiments"][TRANSFER] = experiment
    path.write_text(
        yaml.safe_dump(derived({key: value for key, value in tree.items() if key != "pipeline"}), sort_keys=False)
    )


def fold(root: Path, experiment: str) -> Path:
    return Paths(root).fold(experiment, 0)


def rename_mice(folder: Path) -> None:
    """Make a trained fold one of other mice."""
    path = folder / checkpoint.CONFIG
    tree = json.loads(path.read_text())
    renamed = {mouse: f"other-{place}" for place, mouse in enumerate(tree["info"]["mice"])}
    tree["readouts"] = [renamed[mouse] for mouse in tree["readouts"]]
    for key in ("mice", "units"):
        tree["info"][key] = {renamed[mouse]: value for mouse, value in tree["info"][key].items()}
    path.write_text(json.dumps(tree))


def weights(root: Path, experiment: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(fold(root, experiment)).model.state_dict()


def settings(root: Path) -> Config:
    return load(root / PARAMS_FILE)


@pytest.fixture
def small_model(project: Path) -> AnyModel:
    torch.manual_seed(0)
    return build(settings(project).experiment(EXPERIMENT).model, [5])


def test_frozen_parts_keep_every_bit_and_the_readouts_learn(project: Path) -> None:
    train_here(project)
    add_transfer(project)
    train_here(project, TRANSFER)
    before, after = weights(project, EXPERIMENT), weights(project, TRANSFER)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith("readouts.") for name in changed)


def test_fine_tuning_moves_the_parts_by_their_own_learning_rates(project: Path) -> None:
    train_here(project)
    quiet = {"weight_decay": 0.0}
    add_transfer(project, "none", learning_rate_scale={"core": 1e-6, "cortex": 1e-6, "readouts": 1.0}, **quiet)
    train_here(project, TRANSFER)
    parameters = [name for name, _ in checkpoint.load(fold(project, TRANSFER)).model.named_parameters()]
    before, after = weights(project, EXPERIMENT), weights(project, TRANSFER)
    moved = {name: float((after[name] - before[name]).abs().max()) for name in parameters}
    shared = max(value for name, value in moved.items() if name.startswith(SHARED))
    readouts = max(value for name, value in moved.items() if name.startswith("readouts."))
    assert 0 < shared < readouts / 1000


def test_the_fold_names_the_digest_of_its_start(project: Path) -> None:
    train_here(project)
    add_transfer(project)
    train_here(project, TRANSFER)
    info = checkpoint.read_info(fold(project, TRANSFER))
    assert info.provenance["start"] == checkpoint.digest(fold(project, EXPERIMENT))


def test_a_killed_transfer_ends_with_the_same_bytes(project: Path, tmp_path: Path) -> None:
    train_here(project)
    add_transfer(project)
    undisturbed = Path(shutil.copytree(project, tmp_path / "undisturbed"))
    from training_runs import start

    process = start(project, TRANSFER, kill_event=20)
    process.join()
    assert process.exitcode not in (0, 1)
    assert finish(project, TRANSFER) == finish(undisturbed, TRANSFER)


def test_readouts_of_new_mice_are_new(project: Path) -> None:
    train_here(project)
    add_transfer(project)
    rename_mice(fold(project, EXPERIMENT))
    train_here(project, TRANSFER)
    before, after = weights(project, EXPERIMENT), weights(project, TRANSFER)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(SHARED))


def test_a_missing_start_is_named_with_the_remedy(project: Path) -> None:
    add_transfer(project)
    with pytest.raises(CheckpointError, match="does not exist") as fault:
        train_here(project, TRANSFER)
    assert f"dvc repro train@{EXPERIMENT}-0" in str(fault.value)
    assert not fold(project, TRANSFER).exists()


def test_a_start_of_another_window_is_refused(project: Path) -> None:
    train_here(project)
    add_transfer(project)
    change_params(project, {"window.step": 1})
    with pytest.raises(CheckpointError, match="its window is"):
        train_here(project, TRANSFER)


def test_a_start_of_other_folds_of_the_same_mice_is_refused(project: Path) -> None:
    train_here(project)
    add_transfer(project)
    path = fold(project, EXPERIMENT) / checkpoint.CONFIG
    tree = json.loads(path.read_text())
    tree["info"]["provenance"]["folds"] = "0" * 64
    path.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="may have learnt from the held-out trials"):
        train_here(project, TRANSFER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": {"experiment": "transfer_001"}}, "learns from"),
        ({"start": {"experiment": "../other"}}, "cannot name an experiment"),
        ({"start": {"experiment": EXPERIMENT, "freeze": "readouts"}}, "freeze"),
        ({"training.learning_rate_scale": {"core": 0.5}}, "has no effect"),
        ({"training.learning_rate_scale": {"core": 0.0}}, "greater than 0"),
        ({"model.features": [4, 8]}, "its weights do not fit"),
    ],
)
def test_wrong_starts_are_refused_in_the_settings(project: Path, changes: dict[str, object], message: str) -> None:
    add_transfer(project)
    tree = yaml.safe_load((project / PARAMS_FILE).read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = tree["experiments"][TRANSFER]
        for name in sections:
            section = section[name]
        section[last] = value
    with pytest.raises(ConfigError, match=message):
        parse({key: value for key, value in tree.items() if key != "pipeline"}, "params.yaml")


def test_a_frozen_view_computes_what_the_model_does(small_model: AnyModel) -> None:
    inputs = torch.rand(2, 5, 16, *small_model.config.canvas)
    view = freeze(small_model, ("core", "cortex")).train()
    with torch.no_grad():
        expected = small_model.eval().features(inputs)
    assert torch.allclose(view.features(inputs), expected, rtol=1e-4, atol=1e-5)
    assert not view.features(inputs).requires_grad
    assert view.readouts is small_model.readouts


# -- number of training trials -------------------------------------------------------------------


def pool(project: Path, trials: int | None, seed: int = 0) -> set[int]:
    """Trials of the first mouse from which windows are drawn."""
    config, paths = settings(project), Paths(project)
    stores = [MouseStore(paths.store(NEW_MOUSE))]
    canvas = config.experiment(EXPERIMENT).model.canvas
    data = TrainingData(stores, Folds.load(paths.folds), 0, config.window, canvas, None, 600, seed, trials)
    return set(np.unique(data._plan(0).trials[0]).tolist())


def test_few_trials_are_among_more(project: Path) -> None:
    everything, four, two = (pool(project, count) for count in (None, 4, 2))
    assert two < four < everything
    assert (len(two), len(four)) == (2, 4)
    assert pool(project, 2, seed=1) != two or pool(project, 2, seed=2) != two


def learning_curve(root: Path, trials: str) -> None:
    from sensorium.commands import learning_curve as verb

    verb.run(settings(root), Paths(root), TRANSFER, trials, "0,1")


@pytest.fixture
def foreign_start(project: Path) -> Path:
    """A project with a transfer from folds that were trained on other mice."""
    for number in (0, 1):
        train_here(project, fold=number)
    add_transfer(project)
    for number in (0, 1):
        rename_mice(Paths(project).fold(EXPERIMENT, number))
    return project


def test_a_learning_curve_has_a_row_per_start_and_number(foreign_start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning_curve(foreign_start, "2,all")
    folder = Paths(foreign_start).learning_curve(TRANSFER)
    table = pd.read_csv(folder / "points.csv")
    assert table["start"].tolist() == [EXPERIMENT, "scratch", EXPERIMENT, "scratch"]
    assert table["folds"].tolist() == [2] * 4
    assert (table["low"] < table["correlation"]).all()
    assert table["trials"].iloc[0] == 2 < table["trials"].iloc[2]
    assert (folder / "learning-curve.png").stat().st_size > 1000
    assert not list((Paths(foreign_start).state / "learning-curves").rglob("scores.json"))


@pytest.mark.slow
def test_a_killed_learning_curve_repeats_no_finished_training(
    foreign_start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensorium.stages import train

    trained, original = [], train.try_out

    def once(*arguments: object) -> float | None:
        trained.append(arguments[3])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(train, "try_out", once)
    with pytest.raises(KeyboardInterrupt):
        learning_curve(foreign_start, "2")
    learning_curve(foreign_start, "2")
    assert trained == [0, 1, 0, 0, 1]


def test_a_learning_curve_of_mice_that_the_start_knows_is_refused(project: Path) -> None:
    for number in (0, 1):
        train_here(project, fold=number)
    add_transfer(project)
    with pytest.raises(ConfigError, match="was trained on all trials of"):
        learning_curve(project, "2,all")


@pytest.mark.parametrize("trials", ["0", "few", "1,,2", "-3"])
def test_wrong_numbers_of_trials_are_refused(foreign_start: Path, trials: str) -> None:
    with pytest.raises(ConfigError, match="not a number of trials"):
        learning_curve(foreign_start, trials)
