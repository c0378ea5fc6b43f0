"""Which GPUs this machine has, as the driver names them."""

import re
import subprocess

from sensorium.errors import ConfigError

_LINE = re.compile(r"^\s*(?:GPU (?P<index>\d+):.*|MIG .*)\(UUID: (?P<uuid>[\w./-]+)\)", re.MULTILINE)


def present() -> list[str]:
    """Indices and UUIDs of the GPUs and their MIG slices; empty without an NVIDIA driver."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return []
    return [name for match in _LINE.finditer(listing.stdout) for name in (match["index"], match["uuid"]) if name]


def parse(text: str) -> list[str]:
    """Parse `0,1,2` or UUIDs.

    Raises:
        ConfigError: a GPU is named twice, or this machine does not have it.
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--gpus {text!r}: name each GPU once.", "For example: --gpus 0,1")
    known = present()
    for name in wanted:
        if name not in known:
            found = ", ".join(known) if known else "none; `nvidia-smi -L` lists none or does not run"
            raise ConfigError(f"--gpus: no GPU {name!r} on this machine.", f"Present: {found}.")
    return wanted


def lease(gpu: str | None) -> dict[str, str]:
    """Environment that shows a stage its GPU alone, numbered as `nvidia-smi` numbers them."""
    return {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
