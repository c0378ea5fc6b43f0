"""The choice of an executor by its name, equal commands in parallel on one, and the GPUs of this machine."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sensorium.errors import ConfigError, PipelineError
from sensorium.scheduler import slurm
from sensorium.scheduler.local import CLUSTER_TIMEOUT, Executor, Handle, run_here, wait
from sensorium.scheduler.processes import StopSignals

EXECUTORS = ("local", "slurm", "ray")
_LINE = re.compile(r"^\s*(?:GPU (?P<index>\d+):.*|MIG .*)\(UUID: (?P<uuid>[\w./-]+)\)", re.MULTILINE)


class Worker(NamedTuple):
    """A command that finds its own work."""

    command: str
    """What `$SHELL -c` takes; no two of them are equal."""
    environment: Mapping[str, str]
    log: Path


def run_workers(executor: Executor, workers: Sequence[Worker], folder: Path, on_tick: Callable[[], None]) -> list[int]:
    """Run commands in a folder, in parallel, until all of them have ended, and return their exit codes.

    Raises:
        KeyboardInterrupt: asked to stop; all commands were asked to, and have ended.
    """
    handles: list[Handle] = []
    with StopSignals() as signals:
        try:
            for worker in workers:
                handles.append(executor(worker.command, worker.environment, folder, worker.log))
            signals.install()  # again: a cluster's library may have taken the signals
            codes = wait(handles, lambda: signals.count > 0, on_tick, tick=0.2)
        except BaseException:
            wait(handles, lambda: True)
            raise
    if signals.count:
        raise KeyboardInterrupt
    return codes


def make_executor(name: str, gpus: int) -> Executor:
    """The executor of a name that `check` has passed, whose commands each ask a cluster for `gpus` GPUs."""
    if name == "slurm":
        return partial(slurm.submit, gpus)
    if name == "ray":
        from sensorium.scheduler import ray_executor  # an extra

        return partial(ray_executor.submit, gpus)
    return run_here


def check(name: str, gpus: int) -> None:
    """Find out before a run whether its executor can work.

    Raises:
        ConfigError: there is no such executor, it is not installed, or its cluster lacks the GPUs.
        PipelineError: its cluster does not answer.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"--executor {name!r}: does not exist.", f"Choose one of: {', '.join(EXECUTORS)}.")
    if name == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("--executor slurm: no sbatch on this machine.", "Run it on a login node of the cluster.")
    if name == "ray":
        _check_ray(gpus)


def _check_ray(gpus: int) -> None:
    """Ask the cluster what it has, in another process: Ray's client may hang, or abort its process."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--executor ray: Ray is not installed.", "Install the extra: pip install 'sensorium[ray]'")
    remedy = "Start a cluster (ray start --head), or set RAY_ADDRESS to the address of a running head."
    call = [sys.executable, "-m", "sensorium.scheduler.ray_executor"]
    try:
        answer = subprocess.run(call, capture_output=True, text=True, timeout=CLUSTER_TIMEOUT, check=True)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise PipelineError(f"Ray: no answer from the cluster in {CLUSTER_TIMEOUT:.0f} s.", remedy) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().rpartition("\n")[2] or "unknown reason"
        raise PipelineError(f"Ray: no cluster to run on ({reason}).", remedy) from None
    available = json.loads(answer.stdout.splitlines()[-1]).get("GPU", 0)
    if gpus > available:
        raise ConfigError(f"--gpus-per-stage {gpus}: the Ray cluster has {available:g} GPUs.", "Ask for fewer.")


def _present_gpus() -> list[str]:
    """Indices and UUIDs of the GPUs and their MIG slices; empty without an NVIDIA driver."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return []
    return [name for match in _LINE.finditer(listing.stdout) for name in (match["index"], match["uuid"]) if name]


def parse_gpus(text: str) -> list[str]:
    """Parse `0,1,2` or UUIDs; raises a ConfigError for a GPU that is named twice, or that this machine lacks."""
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--gpus {text!r}: name each GPU once.", "For example: --gpus 0,1")
    known = _present_gpus()
    for name in wanted:
        if name not in known:
            found = ", ".join(known) if known else "none; `nvidia-smi -L` lists none or does not run"
            raise ConfigError(f"--gpus: no GPU {name!r} on this machine.", f"Present: {found}.")
    return wanted


def lease(gpu: str | None) -> dict[str, str]:
    """Environment that shows a stage its GPU alone, numbered as `nvidia-smi` numbers them."""
    return {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
