"""The executors by name, and whether this machine can use them."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

from sensorium.errors import ConfigError, PipelineError
from sensorium.repro.executors import Executor, LocalExecutor

EXECUTORS = ("local", "slurm", "ray")

_ANSWER = 60.0
"""Seconds that a cluster has to answer."""


def make_executor(name: str, gpus: int) -> Executor:
    """The executor of a name that `check` has passed.

    Args:
        name: one of `EXECUTORS`.
        gpus: GPUs that each command asks a cluster for.
    """
    if name == "slurm":
        from sensorium.repro.slurm import SlurmExecutor

        return SlurmExecutor(gpus)
    if name == "ray":
        from sensorium.repro.raycluster import RayExecutor

        return RayExecutor(gpus)
    assert name == "local", name
    return LocalExecutor()


def check(name: str, gpus: int) -> None:
    """Find out before a run whether its executor can work.

    Raises:
        ConfigError: there is no such executor, it is not installed, or its cluster lacks the GPUs.
        PipelineError: its cluster does not answer.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"--executor {name!r}: does not exist.", f"Choose one of: {', '.join(EXECUTORS)}.")
    if name == "slurm":
        for program in ("sbatch", "scancel"):
            if shutil.which(program) is None:
                raise ConfigError(
                    f"--executor slurm: no {program} on this machine.", "Run it on a login node of the cluster."
                )
    if name == "ray":
        _check_ray(gpus)


def _check_ray(gpus: int) -> None:
    """Ask the cluster what it has, in another process: Ray starts threads, and the coordinator has none."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--executor ray: Ray is not installed.", "Install the extra: pip install 'sensorium[ray]'")
    remedy = "Start a cluster (ray start --head), or set RAY_ADDRESS to the head that runs."
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "sensorium.repro.raycluster"],
            capture_output=True,
            text=True,
            timeout=_ANSWER,
            check=True,
        )
    except subprocess.TimeoutExpired:
        where = os.environ.get("RAY_ADDRESS", "its default address")
        raise PipelineError(f"Ray: no answer at {where} in {_ANSWER:.0f} s.", remedy) from None
    except subprocess.CalledProcessError as fault:
        reason = fault.stderr.strip().splitlines()[-1:] or ["unknown reason"]
        raise PipelineError(f"Ray: no cluster to run on ({reason[0]}).", remedy) from None
    available = json.loads(answer.stdout.splitlines()[-1]).get("GPU", 0)
    if gpus > available:
        raise ConfigError(f"--gpus-per-stage {gpus}: the Ray cluster has {available:g} GPUs.", "Ask for fewer.")
