"""Where to predict."""

import torch

from sensorium.config import RuntimeConfig
from sensorium.errors import ConfigError


def prediction_device(config: RuntimeConfig) -> str:
    """The type of device that `runtime.accelerator` asks for; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and none is there.
    """
    if config.accelerator == "cpu" or (config.accelerator == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(
            "runtime.accelerator: cuda is asked for, but PyTorch sees no GPU.",
            "Set runtime.accelerator to auto or cpu, or make the GPU visible (nvidia-smi, `make GPUS=all`).",
        )
    return "cuda"
