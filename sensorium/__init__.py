"""Sensorium: predict the activity of mouse visual cortex from video, versioned by DVC and tracked by MLflow.

`sensorium.load(target)` gives a trained model that predicts; see `sensorium.hub.load`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("sensorium.hub").load  # by name: PyTorch is imported when it is asked for
