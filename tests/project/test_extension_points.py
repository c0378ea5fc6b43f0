"""The examples in the docstrings of extension points run, and the settings name what there is."""

import doctest
import importlib
from typing import get_args

import pytest

from sensorium.config import TrainingConfig
from sensorium.training import losses, schedule


@pytest.mark.parametrize(
    "name", ["data.augmentation", "data.store", "scheduler.local", "training.losses", "training.schedule"]
)
def test_examples_run(name):
    outcome = doctest.testmod(importlib.import_module(f"sensorium.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(("setting", "known"), [("loss", losses.LOSSES), ("schedule", schedule.DECAYS)])
def test_the_settings_name_all_of_them(setting, known):
    assert set(get_args(TrainingConfig.model_fields[setting].annotation)) == set(known)
