"""Run the commands of stages as Slurm jobs.

`sbatch --wait` blocks until the job has ended and exits as the job did. What a job asks for (partition,
memory, time, account) comes from sbatch's own variables, such as SBATCH_PARTITION.

Options: https://slurm.schedmd.com/sbatch.html
"""

import getpass
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from sensorium.repro.deathsig import die_with_parent
from sensorium.repro.executors import LocalHandle, shell_call

_ANSWER = 60.0
"""Seconds that the controller has to answer."""


class SlurmHandle(LocalHandle):
    """A job, and the `sbatch` that waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], job: str) -> None:
        super().__init__(process)
        self._job = job

    def cancel(self, force: bool = False) -> None:
        """See `Handle`; Slurm itself sends SIGTERM, then SIGKILL after its KillWait.

        By force, this process stops waiting as well, in case that the controller has gone.
        """
        _cancel(self._job)
        if force:
            super().cancel(force=True)


class SlurmExecutor:
    """Submit to the cluster that `sbatch` knows; the project lies on storage that its nodes share.

    Args:
        gpus: GPUs that each job asks for.
    """

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def submit(self, command: str, environment: Mapping[str, str], folder: Path, log: Path) -> SlurmHandle:
        """See `Executor`.

        A job that an earlier, killed run left is cancelled first. Jobs of one name wait for each other
        (singleton), so that two never write the same outputs.
        """
        job = job_name(folder, environment.get("DVC_STAGE", command))
        _cancel(job)
        order = ["sbatch", "--wait", "--quiet", f"--job-name={job}", "--dependency=singleton", f"--chdir={folder}"]
        order += [f"--output={log}", "--open-mode=append", "--export=ALL"]
        order += [f"--gpus={self._gpus}"] if self._gpus else []
        parent = os.getpid()
        process = subprocess.Popen(  # noqa: S603
            order,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.PIPE,
            process_group=0,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, parent),
        )
        assert process.stdin is not None
        with process.stdin as script:
            script.write(f"#!/bin/sh\nexec {shlex.join(shell_call(command, environment))}\n".encode())
        return SlurmHandle(process, job)


def job_name(folder: Path, stage: str) -> str:
    """A name that belongs to one stage of one project."""
    project = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return f"sensorium-{project}-{re.sub(r'[^A-Za-z0-9_.@-]', '_', stage)}"


def _cancel(job: str) -> None:
    order = ["scancel", "--quiet", f"--name={job}", f"--user={getpass.getuser()}"]
    try:
        subprocess.run(order, timeout=_ANSWER, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        print(f"scancel gave no answer in {_ANSWER:.0f} s; job {job} may still run.", file=sys.stderr)  # noqa: T201
