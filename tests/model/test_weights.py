"""Published weights: taken in whole or not at all, given out to the last bit."""

import json
import shutil
import sys

import pytest
import torch
import yaml
from small_models import PUBLISHED, content, full_disk, relative_error
from tiny import preset_tree

from sensorium import published
from sensorium.cli import main
from sensorium.commands import weights
from sensorium.config import parse
from sensorium.errors import CheckpointError, TrainingError
from sensorium.files import exclusive_lock
from sensorium.model import checkpoint
from sensorium.paths import Paths

EXPERIMENT = "true_batch_001"
NAME = PUBLISHED.name
FOLDS = {"fold_0": 0, "fold_2": 2}


def make_config(**model):
    tree = preset_tree("demo")
    tree["synthetic"]["neurons"] = dict(zip(tree["dataset"]["mice"], (7, 5, 9), strict=True))
    tree["folds"]["train"] = FOLDS
    del tree["pipeline"]
    settings = {
        "canvas": [64, 64],
        "features": [8, 8, 16, 16],
        "strides": [2, 1, 2, 1],
        "expansion": 3,
        "se_reduction": 4,
        "cortex_features": [32, 64],
        "drop_path": 0,
        "cortex_drop_path": 0,
        "readout_dropout": 0,
    }
    tree["experiments"][EXPERIMENT]["model"] |= settings | model
    return parse(tree, "params.yaml")


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path / "project")


@pytest.fixture
def torrent(tmp_path):
    """A folder in the published layout; fold 2 has an earlier, worse checkpoint too."""
    folder = tmp_path / "torrent"
    for fold in FOLDS:
        (folder / EXPERIMENT / fold).mkdir(parents=True)
        shutil.copy(PUBLISHED, folder / EXPERIMENT / fold)
    (folder / EXPERIMENT / "fold_2" / "model-009-0.023456.pth").write_bytes(b"never read")
    (folder / EXPERIMENT / "fold_2" / "log.csv").write_text("epoch,val_corr\n2,0.123456\n")
    return folder


def take(paths, folder, *, force=False, **model):
    weights.run_import(make_config(**model), paths, folder, EXPERIMENT, force=force)


def edit(file, change):
    published_file = torch.load(file, weights_only=True)
    change(published_file)
    torch.save(published_file, file)


@pytest.mark.parametrize("inner", [False, True])
def test_import_gives_the_published_figures(paths, torrent, figures, inner):
    take(paths, torrent / EXPERIMENT if inner else torrent)
    trained = checkpoint.load(paths.fold(EXPERIMENT, 2))
    with torch.no_grad():
        for mouse, output in enumerate(trained.model(figures["input"])):
            assert relative_error(output, figures[f"eval_mouse{mouse}"]) < 1e-5
    assert trained.info.scores == {"epoch": 2, "val_correlation": 0.123456}
    assert trained.info.mice == dict(zip(make_config().dataset.mice, (7, 5, 9), strict=True))
    assert (trained.info.experiment, trained.info.fold) == (EXPERIMENT, 2)
    assert (paths.fold(EXPERIMENT, 2) / "log.csv").read_text() == "epoch,val_corr\n2,0.123456\n"
    assert sorted(path.name for path in paths.fold(EXPERIMENT, 0).iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads(paths.run_link(EXPERIMENT, 0).read_text())["run_id"] is None


def test_export_gives_back_every_bit(paths, torrent, tmp_path):
    take(paths, torrent)
    out = tmp_path / "out"
    weights.run_export(make_config(), paths, out, EXPERIMENT)
    files = {f"{EXPERIMENT}/{fold}/{NAME}" for fold in FOLDS} | {f"{EXPERIMENT}/fold_2/log.csv"}
    assert set(content(out)) == files
    found = torch.load(out / EXPERIMENT / "fold_2" / NAME, weights_only=True)
    expected = torch.load(PUBLISHED, weights_only=True)
    assert found["params"] == expected["params"]
    assert isinstance(found["params"]["nn_module"], tuple)
    assert list(found) == list(expected)
    assert list(found["nn_state_dict"]) == list(expected["nn_state_dict"])
    for name, entry in expected["nn_state_dict"].items():
        assert found["nn_state_dict"][name].dtype == entry.dtype
        assert torch.equal(found["nn_state_dict"][name], entry), name
    size = (out / EXPERIMENT / "fold_2" / NAME).stat().st_size
    assert size == pytest.approx(PUBLISHED.stat().st_size, rel=0.02)


def test_own_weights_in_the_published_form_come_back_equal(paths, torrent, tmp_path):
    take(paths, torrent)
    for fold in FOLDS.values():
        trained = checkpoint.load(paths.fold(EXPERIMENT, fold))
        own = trained.info.model_copy(update={"provenance": {"seed": 0}})
        checkpoint.save(paths.fold(EXPERIMENT, fold), trained.model, own)
    weights.run_export(make_config(), paths, tmp_path / "out", EXPERIMENT)
    fresh = Paths(tmp_path / "fresh")
    take(fresh, tmp_path / "out")
    for fold in FOLDS.values():
        back = checkpoint.load(fresh.fold(EXPERIMENT, fold))
        state = checkpoint.load(paths.fold(EXPERIMENT, fold)).model.state_dict()
        assert all(torch.equal(entry, state[name]) for name, entry in back.model.state_dict().items())
        assert back.info.scores == {"epoch": 2, "val_correlation": 0.123456}


def truncate(file):
    file.write_bytes(file.read_bytes()[:-3000])


def garble(file):
    file.write_bytes(b"<html>not found</html>")


def empty(file):
    file.write_bytes(b"")


def rename_model(file):
    edit(file, lambda tree: tree.update(model_name="OtherModel"))


def other_architecture(file):
    edit(file, lambda tree: tree["params"].update(nn_module=("resnet", {})))


def drop_key(file):
    edit(file, lambda tree: tree["nn_state_dict"].pop("core.stem.0.weight"))


def add_key(file):
    edit(file, lambda tree: tree["nn_state_dict"].update(extra=torch.zeros(1)))


def reshape(file):
    edit(file, lambda tree: tree["nn_state_dict"].update({"core.stem.0.weight": torch.zeros(8, 4, 1, 1, 1)}))


def half(file):
    edit(file, lambda tree: tree["nn_state_dict"].update({"core.stem.1.bn.bias": torch.zeros(8).half()}))


def lose_params(file):
    edit(file, lambda tree: tree["params"].pop("frame_stack"))


def lose_part(file):
    edit(file, lambda tree: tree.pop("params"))


def other_neurons(file):
    edit(file, lambda tree: tree["params"]["nn_module"][1].update(readout_outputs=[7, 9, 5]))


def remove(file):
    file.unlink()


def remove_fold(file):
    shutil.rmtree(file.parent)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "damaged or not a published checkpoint"),
        (garble, "damaged or not a published checkpoint"),
        (empty, "damaged or not a published checkpoint"),
        (rename_model, "holds a 'OtherModel', expected a 'MouseModel'"),
        (other_architecture, "the model is a 'resnet', expected a 'dwiseneuro'"),
        (drop_key, r"entry 'core.stem.0.weight' is missing \(1 entries differ\)"),
        (add_key, r"entry 'extra' is unknown"),
        (reshape, r"'core.stem.0.weight' is float32 \(8, 4, 1, 1, 1\), expected float32 \(8, 5, 1, 1, 1\)"),
        (half, r"'core.stem.1.bn.bias' is float16 \(8,\), expected float32 \(8,\)"),
        (lose_params, "its params are not those of a dwiseneuro"),
        (lose_part, "not a published checkpoint, its keys are not"),
        (other_neurons, r"readouts of \[7, 9, 5\] neurons, the mice of params.yaml have \[7, 5, 9\]"),
        (remove, r"fold_0: holds no model-<epoch>-<score>.pth"),
        (remove_fold, r"fold_0: holds no model-<epoch>-<score>.pth"),
    ],
)
@pytest.mark.parametrize("occupied", [False, True])
def test_bad_folders_change_nothing(paths, torrent, damage, message, occupied):
    if occupied:
        take(paths, torrent)
    before = content(paths.root / "data")
    damage(torrent / EXPERIMENT / "fold_0" / NAME)
    with pytest.raises(CheckpointError, match=message) as fault:
        take(paths, torrent, force=True)
    assert fault.value.remedy
    assert content(paths.root / "data") == before


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def test_code_in_a_file_is_not_run(paths, torrent, tmp_path):
    torch.save({"model_name": Trap(tmp_path / "sprung")}, torrent / EXPERIMENT / "fold_0" / NAME)
    with pytest.raises(CheckpointError, match="damaged or not a published checkpoint"):
        take(paths, torrent)
    assert not (tmp_path / "sprung").exists()


def test_settings_of_another_model(paths, torrent):
    with pytest.raises(
        CheckpointError, match=r"experiments.true_batch_001.model.expansion is 3 there and 4 here\.\nSet"
    ):
        take(paths, torrent, expansion=4)
    assert not paths.experiment(EXPERIMENT).exists()


def test_folder_without_folds(paths, tmp_path):
    with pytest.raises(CheckpointError, match=r"has neither true_batch_001/fold_<k> nor fold_<k> in it"):
        take(paths, tmp_path)


def test_other_trained_folds_stay_unless_forced(paths, torrent):
    take(paths, torrent)
    own = paths.fold(EXPERIMENT, 0)
    trained = checkpoint.load(own)
    checkpoint.save(own, trained.model, trained.info.model_copy(update={"provenance": {}}))
    unlisted = paths.fold(EXPERIMENT, 1)
    shutil.copytree(own, unlisted)
    before = content(paths.root / "data")
    with pytest.raises(CheckpointError, match=r"fold_0: a trained fold is there already.*\n.*--force"):
        take(paths, torrent)
    assert content(paths.root / "data") == before
    take(paths, torrent, force=True)
    assert checkpoint.read_info(own).provenance["source"] == "published weights"
    assert content(unlisted) == {
        path.name: before[str(path.relative_to(paths.root / "data"))] for path in unlisted.iterdir()
    }


def test_import_again_is_the_same(paths, torrent):
    take(paths, torrent)
    before = content(paths.root / "data")
    own = paths.experiment(EXPERIMENT)
    for leftover in (
        own.with_name(f".{EXPERIMENT}.0a.retired"),
        own / ".fold_0.0a.retired",
        own / ".fold_1.0a.partial",
    ):
        leftover.mkdir()
    take(paths, torrent)
    assert content(paths.root / "data") == before
    assert not list(paths.experiments.rglob(".*"))


def test_published_files_in_the_place_of_trained_folds_are_not_lost(paths, torrent):
    shutil.copytree(torrent / EXPERIMENT, paths.experiment(EXPERIMENT))
    before = content(paths.root / "data")
    with pytest.raises(CheckpointError, match=r"lie where the trained folds go.\nMove them to another folder first"):
        take(paths, paths.experiments, force=True)
    assert content(paths.root / "data") == before


def test_import_waits_for_no_trainer(paths, torrent):
    with (
        exclusive_lock(paths.training_lock(EXPERIMENT, 1), TrainingError("busy")),
        pytest.raises(TrainingError, match="true_batch_001 fold 1: is being trained"),
    ):
        take(paths, torrent)
    assert not paths.experiment(EXPERIMENT).exists()


def test_full_disk(paths, torrent, tmp_path):
    with full_disk(5000), pytest.raises(CheckpointError, match="cannot be written"):
        take(paths, torrent)
    assert not paths.experiment(EXPERIMENT).exists()
    take(paths, torrent)
    with full_disk(5000), pytest.raises(CheckpointError, match=f"{NAME}: cannot be written"):
        weights.run_export(make_config(), paths, tmp_path / "out", EXPERIMENT)
    assert content(tmp_path / "out") == {}


def test_export_refuses_what_it_cannot_do(paths, torrent, tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json: the file does not exist"):
        weights.run_export(make_config(), paths, tmp_path / "out", EXPERIMENT)
    assert content(tmp_path / "out") == {}
    take(paths, torrent)
    with pytest.raises(CheckpointError, match=r"torrent/true_batch_001: is there already"):
        weights.run_export(make_config(), paths, torrent, EXPERIMENT)
    own = checkpoint.load(paths.fold(EXPERIMENT, 0))
    model = own.info.model.model_copy(update={"cortex_drop_path": 0.5})
    info = own.info.model_copy(update={"provenance": {}, "model": model})
    checkpoint.save(paths.fold(EXPERIMENT, 0), own.model, info)
    with pytest.raises(CheckpointError, match=r"cortex_drop_path: differs from model.drop_path"):
        weights.run_export(make_config(), paths, tmp_path / "out", EXPERIMENT)


def test_plain_values_survive_json():
    value = {"a": (1, [2.5, None, True]), 3: {"list": float("inf")}, "empty": ((), [], {})}
    assert published.from_json(json.loads(json.dumps(published.to_json(value, "here")))) == value
    with pytest.raises(CheckpointError, match="here: its params hold a Tensor"):
        published.to_json([torch.zeros(1)], "here")


def test_commands(paths, torrent, tmp_path, monkeypatch, capsys):
    paths.root.mkdir()
    (paths.root / "params.yaml").write_text(yaml.safe_dump(make_config().model_dump(mode="json"), sort_keys=False))
    monkeypatch.chdir(paths.root)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sensorium", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    code, streams = run("weights", "import", str(torrent), "-e", EXPERIMENT)
    assert code == 0
    assert "2 folds in" in streams.out
    assert "mean validation correlation 0.123456" in streams.out
    code, streams = run("weights", "export", str(tmp_path / "out"), "-e", EXPERIMENT)
    assert code == 0
    assert f"out/{EXPERIMENT}/fold_2/{NAME}" in streams.out
    garble(torrent / EXPERIMENT / "fold_2" / NAME)
    code, streams = run("weights", "import", str(torrent), "-e", EXPERIMENT)
    assert code == 1
    assert "damaged or not a published checkpoint" in streams.err
    assert "Traceback" not in streams.err
    code, streams = run("weights", "import", str(torrent), "-e", "unknown")
    assert code == 2
    assert "experiment 'unknown': not in params.yaml" in streams.err
