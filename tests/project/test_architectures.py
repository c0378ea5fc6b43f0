"""Architectures as parts of the settings: one is chosen by name, and its keys are refused by name."""

import subprocess
import sys

import pytest
from tiny import TINY_BASELINE, preset_tree

from sensorium import config
from sensorium.architectures import ARCHITECTURES, ModelConfig, resolve
from sensorium.errors import ConfigError
from sensorium.model.baseline_config import BaselineConfig
from sensorium.model.dwiseneuro_config import DwiseNeuroConfig

NAME = "true_batch_001"


@pytest.fixture
def demo():
    return preset_tree("demo")


def test_each_experiment_has_the_settings_of_its_architecture(demo):
    settings = config.parse(demo, "params.yaml")
    assert type(settings.experiment("true_batch_001").model) is DwiseNeuroConfig
    assert type(settings.experiment("baseline_001").model) is BaselineConfig
    assert config.parse(settings.model_dump(mode="json"), "written and read") == settings


def test_settings_from_before_there_was_a_choice_are_dwiseneuros(demo):
    settings = config.parse(demo, "params.yaml")
    del demo["experiments"][NAME]["model"]["architecture"]
    assert config.parse(demo, "params.yaml") == settings


@pytest.mark.parametrize(
    ("experiment", "change", "words"),
    [
        (NAME, {"expantion": 3}, "model.expantion: unknown key. Did you mean 'expansion'?"),
        (NAME, {"position_sigma": 3}, "model.position_sigma: unknown key. Known keys here: architecture, canvas, "),
        ("baseline_001", {"stride": 3}, "model.stride: unknown key. Did you mean 'strides'?"),
        ("baseline_001", {"expansion": 3}, "model.expansion: unknown key. Known keys here: architecture, canvas, "),
        (NAME, {"architecture": "dwisneuro"}, "model.architecture: Input should be 'baseline' or 'dwiseneuro', found"),
        (NAME, {"architecture": ["baseline"]}, "model.architecture: Input should be 'baseline' or 'dwiseneuro'."),
        ("baseline_001", {"features": []}, "model.features: Tuple should have at least 1 item"),
        ("baseline_001", {"canvas": [0, 8]}, "model.canvas.0: Input should be greater than 0, found 0."),
    ],
)
def test_a_mistake_names_the_key(demo, experiment, change, words):
    demo["experiments"][experiment]["model"] |= change
    with pytest.raises(ConfigError) as fault:
        config.parse(demo, "params.yaml")
    assert str(fault.value).startswith(f"params.yaml: experiments.{experiment}.{words}")


@pytest.mark.parametrize("model", ["baseline", None, 3])
def test_a_model_that_is_no_section_is_refused(demo, model):
    demo["experiments"][NAME]["model"] = model
    with pytest.raises(ConfigError, match=rf"experiments.{NAME}.model: Input should be a valid dictionary"):
        config.parse(demo, "params.yaml")


def test_the_registry_names_what_there_is():
    from sensorium.model.architecture import Model

    for name, architecture in ARCHITECTURES.items():
        settings = resolve(architecture.settings)
        assert issubclass(settings, ModelConfig)
        assert settings.model_fields["architecture"].default == name
        assert issubclass(resolve(architecture.model), Model)


def test_reading_settings_imports_no_torch():
    code = "import sys; from sensorium.config import load; from pathlib import Path; load(Path('params.yaml'));"
    subprocess.run([sys.executable, "-c", f"{code} assert 'torch' not in sys.modules"], check=True)


def test_one_model_may_stand_alone():
    assert ModelConfig.model_validate(TINY_BASELINE) == BaselineConfig.model_validate(TINY_BASELINE)
