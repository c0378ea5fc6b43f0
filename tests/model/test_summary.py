"""The summary counts what the model has and does."""

import json
import sys

import pytest
import torch
import yaml
from small_models import ROOT, SMALL, random_model
from tiny import derived
from torch.utils.flop_counter import FlopCounterMode

from sensorium.cli import main
from sensorium.commands.model import summarise
from sensorium.experiments import compose


def test_counts_agree_with_the_model():
    model = random_model().eval()
    layers = summarise(SMALL, {"mouse_a": 5, "mouse_b": 3}, 6)
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.rand(1, 5, 6, *SMALL.canvas))
    assert 2 * sum(layer.multiply_adds for layer in layers) == flops.get_total_flops()


def test_shapes():
    shapes = {layer.name: layer.output for layer in summarise(SMALL, {"mouse_a": 5, "mouse_b": 3}, 6)}
    assert shapes["core.stem"] == (4, 6, 9, 14)
    assert shapes["core.blocks.0.expand"] == (12, 6, 9, 14)
    assert shapes["core.blocks.0.space"] == (12, 6, 5, 7)
    assert shapes["core.blocks.2.shortcut"] == (10, 6, 2, 3)
    assert shapes["cortex.1"] == (16, 6)
    assert shapes["readouts.1 mouse_b"] == (3, 6)


def test_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text(compose(ROOT, "competition"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sensorium", "model", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    code, streams = run("-e", "true_batch_001", "--json")
    assert code == 0
    tree = json.loads(streams.out)
    assert tree["parameters"] == 170_656_070
    assert tree["multiply_adds"] == sum(layer["multiply_adds"] for layer in tree["layers"])
    code, streams = run("-e", "distillation_001")
    assert code == 0
    assert "readouts.9 dynamic29514-2-9" in streams.out
    tree = yaml.safe_load((tmp_path / "params.yaml").read_text())
    tree["dataset"]["mice"] = {"unheard_of": "new"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(derived(tree), sort_keys=False))
    code, streams = run("-e", "true_batch_001")
    assert code == 2
    assert "mouse unheard_of: its number of neurons is not known yet." in streams.err
