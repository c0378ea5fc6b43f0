"""Run the commands of stages on a Ray cluster.

The coordinator's host is a node of the cluster, and the project is on storage that all nodes share, at
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from sensorium.scheduler.local import LOCK_VARIABLE, LOG_VARIABLE

_LOST = 128 + signal.SIGKILL
"""Exit code of a command whose worker is gone."""
_TICK = 0.1


@dataclass(frozen=True)
class RayHandle:
    """A task of the cluster."""

    task: Any

    def poll(self) -> int | None:
        """See `local.Handle`."""
        done, _ = ray.wait([self.task], timeout=0)
        if not done:
            return None
        try:
            return int(ray.get(self.task))
        except RayError as error:
            print(f"Ray lost the command: {error}", file=sys.stderr)  # noqa: T201
            return _LOST

    def cancel(self, force: bool = False) -> None:
        """See `local.Handle`; a worker that is killed takes the command with it."""
        ray.cancel(self.task, force=force)


def submit(gpus: int, command: str, environment: Mapping[str, str], folder: Path, log: Path) -> RayHandle:
    """Executor of the cluster that RAY_ADDRESS, or Ray's own record, names; a task gets `gpus` GPUs.

    Retrying is the coordinator's: DVC clears a stage's outputs before each attempt.
    """
    _connect()
    task = ray.remote(max_retries=0, num_cpus=1, num_gpus=gpus)(_work)
    variables = {LOCK_VARIABLE: f"{log}.lock", **environment, LOG_VARIABLE: str(log)}
    return RayHandle(task.remote(command, variables, str(folder)))


def _work(command: str, environment: dict[str, str], folder: str) -> int:
    """On the worker: run the command as on a single machine, ended in the same ways."""
    if ray.get_gpu_ids():
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    call = [sys.executable, "-m", "sensorium.scheduler.shell", "local", "0", environment.get("SHELL") or "/bin/sh"]
    # The pipe asks the command to stop when it is closed, also by this worker's death.
    process = subprocess.Popen([*call, "-c", command], env=environment, cwd=folder, stdin=subprocess.PIPE)  # noqa: S603
    assert process.stdin is not None
    try:
        while process.poll() is None:
            time.sleep(_TICK)
    except KeyboardInterrupt:  # how Ray cancels a task
        process.stdin.close()
    return process.wait()


def _connect() -> None:
    if not ray.is_initialized():
        ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)


if __name__ == "__main__":
    _connect()
    sys.stdout.write(json.dumps(ray.cluster_resources()) + "\n")
