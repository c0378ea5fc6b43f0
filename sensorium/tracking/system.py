"""The load of the machine while a training runs, under the names that MLflow's "System metrics" page shows.

MLflow's own monitor is a thread that talks to the server. Here the training samples when it records
something anyway, a few times a minute, and the uploader sends it.
"""

import time
from collections.abc import Mapping

import psutil

PREFIX = "system/"
_INTERVAL_SECONDS = 10.0
_MEGABYTE = 1e6


class SystemLoad:
    """Samples the machine, and this process, at most every ten seconds."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._due = time.monotonic()
        psutil.cpu_percent()  # the first call begins the measurement

    def sample(self) -> Mapping[str, float]:
        """Metrics of the machine since the last sample; empty when that was a moment ago."""
        if time.monotonic() < self._due:
            return {}
        self._due = time.monotonic() + _INTERVAL_SECONDS
        memory = psutil.virtual_memory()
        return {
            f"{PREFIX}cpu_utilization_percentage": psutil.cpu_percent(),
            f"{PREFIX}system_memory_usage_megabytes": memory.used / _MEGABYTE,
            f"{PREFIX}system_memory_usage_percentage": memory.percent,
            f"{PREFIX}process_memory_usage_megabytes": self._process.memory_info().rss / _MEGABYTE,
            **_gpus(),
        }


def _gpus() -> dict[str, float]:
    """Memory of the GPUs that this process uses, and their load where NVIDIA's library is installed."""
    import torch

    found: dict[str, float] = {}
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return found
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found[f"{PREFIX}gpu_{number}_memory_usage_megabytes"] = (total - free) / _MEGABYTE
        found[f"{PREFIX}gpu_{number}_memory_usage_percentage"] = 100 * (1 - free / total)
        try:
            found[f"{PREFIX}gpu_{number}_utilization_percentage"] = float(torch.cuda.utilization(number))
        except (ModuleNotFoundError, RuntimeError):  # torch reads the load through pynvml
            continue
    return found
