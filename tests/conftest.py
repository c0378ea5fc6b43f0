"""Fixtures that all tests share: a tiny raw dataset and the settings that belong to it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import MICE, make_config, simulate

from sensorium.config import Config

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

os.environ.setdefault("SENSORIUM_TRACKING_TIMEOUT", "30")  # a test reads at once what a training delivered
os.environ.setdefault("SENSORIUM_UPLOADER_IDLE_TIMEOUT", "0")  # and its folder goes with it


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden figures anew."""
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden/ anew instead of comparing")


@pytest.fixture(scope="session")
def raw_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three raw mice and their `.truth`; read-only by agreement, `copy_raw` gives a private one."""
    raw = tmp_path_factory.mktemp("sensorium_all_2023")
    for mouse in MICE:
        simulate(raw, mouse)
    return raw


@pytest.fixture(scope="session")
def tiny_config(raw_dataset: Path) -> Config:
    """Settings whose `dataset.raw` is `raw_dataset`."""
    return make_config(str(raw_dataset))


@pytest.fixture
def copy_raw(raw_dataset: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the raw dataset (all mice, or those named) to a place where it may be damaged."""

    def copy(*mice: str, to: Path = tmp_path / "data" / "sensorium_all_2023") -> Path:
        for mouse in mice or tuple(MICE):
            shutil.copytree(raw_dataset / mouse, to / mouse)
            shutil.copytree(raw_dataset / ".truth" / mouse, to / ".truth" / mouse)
        return to

    return copy
