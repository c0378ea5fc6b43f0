"""A tiny raw dataset and the settings that belong to it."""

from pathlib import Path
from typing import Any

import yaml

from sensorium.config import Config, parse
from sensorium.experiments import compose
from sensorium.recordings.synthetic.mouse import Recipe, write_mouse

ROOT = Path(__file__).parents[1]

NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
SECOND_NEW_MOUSE = "dynamic29623-4-9-Video-9b4f6a1a067fe51e15306b9628efea20"
OLD_MOUSE = "dynamic29156-11-10-Video-8744edeac3b4d1ce16b680916b5267ce"
MICE = {NEW_MOUSE: "new", SECOND_NEW_MOUSE: "new", OLD_MOUSE: "old"}

_SYNTHETIC = {
    "padded_frames": 80,
    "valid_frames": [68, 72],
    "neurons": {NEW_MOUSE: 8, SECOND_NEW_MOUSE: 7, OLD_MOUSE: 9},
    "train_trials": 10,
    "repeated_trials": 4,
    "repeats": 2,
    "unusable_trials": 1,
    "shared_videos": 2,
}
_MODEL = {
    "canvas": [18, 32],
    "features": [4, 6],
    "strides": [2, 2],
    "expansion": 2,
    "se_reduction": 4,
    "cortex_features": [8],
}
TINY_BASELINE = {
    "architecture": "baseline",
    "canvas": [18, 32],
    "features": [3, 4],
    "strides": [2, 1],
    "spatial_kernels": [5, 3],
    "temporal_kernels": [3, 2],
    "position_sigma": 0.2,
    "response_scale": 10.0,
}
"""Another model, for `experiments.<name>.model`."""
_TRAINING = {"samples_per_epoch": 24, "batch_size": 6, "warmup_epochs": 1, "cosine_epochs": 1}


OPEN = {"transfer": ["dataset.mice={my-mouse: old}"]}
"""What presets leave to their user."""


def preset_tree(name: str, *overrides: str) -> dict[str, Any]:
    """A preset of conf/ as a plain tree."""
    tree: dict[str, Any] = yaml.safe_load(compose(ROOT, name, [*OPEN.get(name, ()), *overrides]))
    return tree


def tiny_tree(raw: str = "data/sensorium_all_2023") -> dict[str, Any]:
    """Teacher and student of the demo preset as a plain tree, all shrunk so that a whole run takes seconds."""
    tree = preset_tree("demo", "experiment=[true_batch_001,distillation_001]")
    tree["dataset"] |= {"raw": raw, "mice": MICE}
    tree["synthetic"] |= _SYNTHETIC
    for experiment in tree["experiments"].values():
        experiment["model"] |= _MODEL
        experiment["training"] |= _TRAINING
    tree["evaluation"] = {"first_frame": 10, "frames": 50}
    tree["runtime"] |= {"accelerator": "cpu", "checkpoint_steps": 2}
    return tree


def derived(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with the section `pipeline` that belongs to its other sections."""
    config = parse({key: value for key, value in tree.items() if key != "pipeline"}, "tests/tiny.py")
    return tree | {"pipeline": config.derived_pipeline}


def make_config(raw: str = "data/sensorium_all_2023") -> Config:
    """Settings of the tiny dataset."""
    return parse(tiny_tree(raw), "tests/conftest.py")


def simulate(raw: Path, mouse: str) -> Path:
    """Simulate one mouse of the tiny dataset into `raw`; returns its folder."""
    config = make_config()
    assert config.synthetic is not None
    write_mouse(raw, Recipe(mouse, config.dataset.mice[mouse], config.synthetic))
    return raw / mouse
