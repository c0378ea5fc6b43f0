"""Trained folds on disk: equal bytes for equal content, and nothing but the right weights ever loads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_models import SMALL, content, full_disk, random_model

from sensorium.config import WindowConfig
from sensorium.errors import CheckpointError
from sensorium.files import sha256
from sensorium.model import checkpoint
from sensorium.model.checkpoint import CONFIG, WEIGHTS, ModelInfo

MICE = {"mouse_z": 5, "mouse_a": 3}


def make_info(**changes):
    values = {
        "experiment": "first",
        "fold": 2,
        "model": SMALL,
        "window": WindowConfig(frames=6, step=2),
        "mice": MICE,
        "units": {"mouse_z": checkpoint.digest_units(np.arange(5))},
        "scores": {"epoch": 3, "val_correlation": 0.25},
        "provenance": {"seed": 1, "inputs": {"b": "2", "a": "1"}},
    }
    return ModelInfo(**(values | changes))


@pytest.fixture
def fold(tmp_path):
    folder = tmp_path / "fold_2"
    checkpoint.save(folder, random_model(), make_info(), {"history.csv": "epoch\n0\n"})
    return folder


def redeclare(folder):
    """Make config.json agree with weights that were put there by hand."""
    tree = json.loads((folder / CONFIG).read_text())
    weights = folder / WEIGHTS
    tree["weights"] = {"bytes": weights.stat().st_size, "sha256": sha256(weights)}
    (folder / CONFIG).write_text(json.dumps(tree))


def test_round_trip(fold):
    model = random_model()
    trained = checkpoint.load(fold, mice=MICE, units={"mouse_z": checkpoint.digest_units(np.arange(5))})
    assert trained.info == make_info()
    assert list(trained.info.mice) == list(MICE)
    assert trained.info == checkpoint.read_info(fold)
    assert trained.digest == checkpoint.digest(fold)
    assert not trained.model.training
    state = trained.model.state_dict()
    assert all(torch.equal(entry, state[name]) for name, entry in model.state_dict().items())
    window = torch.rand(2, 5, 6, *SMALL.canvas)
    assert torch.equal(trained.model(window, 1), model.eval()(window, 1))
    assert (fold / "history.csv").read_text() == "epoch\n0\n"


def test_loaded_model_can_be_trained_on(fold):
    model = checkpoint.load(fold).model.train()
    model(torch.rand(2, 5, 6, *SMALL.canvas), 0).sum().backward()
    assert all(p.grad is not None for p in model.core.parameters())


def test_equal_content_gives_equal_bytes(fold, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_checkpoint as t;"
        "t.checkpoint.save(Path(sys.argv[2]), t.random_model(), t.make_info(), {'history.csv': 'epoch\\n0\\n'})"
    )
    again = tmp_path / "again"
    here = os.path.dirname(__file__)  # noqa: PTH120
    subprocess.run([sys.executable, "-c", code, here, str(again)], check=True)
    assert content(again) == content(fold)


def test_digest_covers_weights_and_settings(fold, tmp_path):
    digests = {checkpoint.digest(fold)}
    checkpoint.save(tmp_path / "seed", random_model(seed=1), make_info())
    checkpoint.save(tmp_path / "window", random_model(), make_info(window=WindowConfig(frames=6, step=1)))
    checkpoint.save(tmp_path / "mice", random_model(neurons=(3, 5)), make_info(mice={"mouse_a": 3, "mouse_z": 5}))
    digests |= {checkpoint.digest(tmp_path / name) for name in ("seed", "window", "mice")}
    assert len(digests) == 4


@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_truncated_weights(fold, size):
    weights = fold / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:size])
    with pytest.raises(
        CheckpointError, match=rf"{WEIGHTS}: has [\d,]+ bytes, expected {len(whole):,}\.\n.*import the fold again"
    ):
        checkpoint.load(fold)


def test_flipped_bit(fold):
    weights = fold / WEIGHTS
    whole = bytearray(weights.read_bytes())
    whole[len(whole) // 2] ^= 1
    weights.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"SHA-256 is not the one in config.json"):
        checkpoint.load(fold)


def test_missing_files(fold, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere/config.json: the file does not exist.\nTrain or import"):
        checkpoint.load(tmp_path / "nowhere")
    (fold / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: the file does not exist"):
        checkpoint.load(fold)


def test_foreign_files(fold):
    (fold / WEIGHTS).write_bytes(b"not weights at all")
    redeclare(fold)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(fold)
    (fold / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not valid JSON"):
        checkpoint.load(fold)
    (fold / CONFIG).write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match=r"config.json: format: Input should be 1"):
        checkpoint.load(fold)


def test_weights_of_another_model(fold, tmp_path):
    deeper = SMALL.model_copy(update={"cortex_features": (12, 16, 20)})
    wider = SMALL.model_copy(update={"cortex_features": (12, 18)})
    for name, config, message in (
        ("deeper", deeper, r"weights of another model: entry 'cortex.2.mix.weight' is unknown"),
        ("wider", wider, r"entry 'cortex.1.mix.weight' is torch.float32 \(18, 6\), expected torch.float32 \(16, 6\)"),
    ):
        checkpoint.save(tmp_path / name, random_model(config), make_info(model=config))
        (fold / WEIGHTS).write_bytes((tmp_path / name / WEIGHTS).read_bytes())
        with pytest.raises(CheckpointError, match="bytes, expected"):
            checkpoint.load(fold)
        redeclare(fold)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(fold)


@pytest.mark.parametrize(
    ("mice", "message"),
    [
        ({"mouse_a": 3, "mouse_z": 5}, "trained on the mice mouse_z, mouse_a, expected mouse_a, mouse_z"),
        ({"mouse_z": 5}, "trained on the mice mouse_z, mouse_a, expected mouse_z"),
        ({"mouse_z": 5, "mouse_a": 4}, "mouse mouse_a has 3 neurons there, expected 4"),
    ],
)
def test_other_mice(fold, mice, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(fold, mice=mice)


def test_other_order_of_neurons(fold):
    units = {"mouse_z": checkpoint.digest_units(np.arange(5)[::-1])}
    with pytest.raises(CheckpointError, match="mouse_z has other neurons there than in the data, or in another order"):
        checkpoint.load(fold, units=units)
    checkpoint.load(fold, units={"mouse_a": "of a mouse that the fold did not note"})


def test_unit_digest_is_of_values_not_of_types():
    assert checkpoint.digest_units(np.array([1, 3, 4], np.uint32)) == checkpoint.digest_units(np.array([1, 3, 4]))
    assert checkpoint.digest_units(np.array([1, 4, 3])) != checkpoint.digest_units(np.array([1, 3, 4]))


@pytest.mark.parametrize("largest", [0, 3000])
def test_full_disk_keeps_what_was_there(fold, largest):
    before = content(fold.parent)
    with full_disk(largest), pytest.raises(CheckpointError, match=r"cannot be written .*\nFree space on the disk"):
        checkpoint.save(fold, random_model(seed=1), make_info(fold=1))
    assert content(fold.parent) == before
    assert [path.name for path in fold.parent.iterdir()] == ["fold_2"]
    checkpoint.load(fold)
