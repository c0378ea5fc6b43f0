"""Where to predict."""

import torch

from sensorium.config import Config
from sensorium.errors import ConfigError


def prediction_device(config: Config) -> str:
    """The type of device that `runtime.accelerator` asks for; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and none is there, or fp16 is asked for without a GPU.
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
        raise ConfigError(
            "prediction.precision: 16-mixed needs a GPU, processors sum in fp16 and overflow.",
            "Set prediction.precision to bf16-mixed or 32-true.",
        )
    return "cpu"
