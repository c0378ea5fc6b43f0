"""Where to predict."""

import torch
from rich.console import Console

from sensorium.config import Config
from sensorium.errors import ConfigError

_SLOW = (
    "prediction.precision: 16-mixed is right but slow without a GPU: most processors have no fp16 arithmetic, "
    "and take ten times as long as for 32-true. bf16-mixed is the fast choice."
)


def prediction_device(config: Config) -> str:
    """The type of device that `runtime.accelerator` asks for; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and none is there.
    """
    accelerator, gpu = config.runtime.accelerator, torch.cuda.is_available()
    if accelerator == "cuda" and not gpu:
        raise ConfigError(
            "runtime.accelerator: cuda is asked for, but PyTorch sees no GPU.",
            "Set runtime.accelerator to auto or cpu, or make the GPU visible (nvidia-smi, `make GPUS=all`).",
        )
    if accelerator != "cpu" and gpu:
        return "cuda"
    if config.prediction.precision == "16-mixed":
        Console(stderr=True).print(_SLOW, highlight=False, soft_wrap=True)
    return "cpu"
