"""Run the commands of stages on a Ray cluster.

The coordinator's host is a node of the cluster, and the project lies on storage that all nodes share, at
the same path. Each command is one Ray task of one driver: when the driver dies, Ray ends its task
wherever it runs, and when a node dies, the driver learns of it and the stage is run again elsewhere.

Run as a module, this prints the cluster's resources.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from sensorium.repro import variables

_LOST = 128 + signal.SIGKILL
"""Exit code of a command whose worker is gone."""

_TICK = 0.1


class RayHandle:
    """A task of the cluster."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def poll(self) -> int | None:
        """See `executors.Handle`."""
        done, _ = ray.wait([self._task], timeout=0)
        if not done:
            return None
        try:
            return int(ray.get(self._task))
        except RayError as fault:
            print(f"Ray lost the command: {fault}", file=sys.stderr)  # noqa: T201
            return _LOST

    def cancel(self, force: bool = False) -> None:
        """See `executors.Handle`; a worker that is killed takes the command with it."""
        ray.cancel(self._task, force=force)


class RayExecutor:
    """Submit to the cluster that RAY_ADDRESS, or Ray's own record of a started cluster, names.

    Args:
        gpus: GPUs that each command asks for.
    """

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def submit(self, command: str, environment: Mapping[str, str], folder: Path, log: Path) -> RayHandle:
        """See `executors.Executor`; the log is the one that the environment names, as on this machine."""
        assert environment[variables.LOG] == str(log)
        _connect()
        # Retrying is the coordinator's: DVC clears a stage's outputs before each attempt.
        task = ray.remote(max_retries=0, num_cpus=1, num_gpus=self._gpus)(_work)
        return RayHandle(task.remote(command, dict(environment), str(folder)))


def _work(command: str, environment: dict[str, str], folder: str) -> int:
    """On the worker: run the command as on a single machine, ended in the same ways."""
    if ray.get_gpu_ids():
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    call = {
        variables.EXECUTOR: "local",
        variables.GPUS: "0",
        variables.PARENT: str(os.getpid()),
        variables.USER_SHELL: environment.get("SHELL", "/bin/sh"),
    }
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", variables.SHELL_MODULE, "-c", command], env={**environment, **call}, cwd=folder
    )
    try:
        while process.poll() is None:
            time.sleep(_TICK)
    except KeyboardInterrupt:  # how Ray cancels a task
        process.terminate()
    return process.wait()


def _connect() -> None:
    if not ray.is_initialized():
        ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)


if __name__ == "__main__":
    _connect()
    sys.stdout.write(json.dumps(ray.cluster_resources()) + "\n")
