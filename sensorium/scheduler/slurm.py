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

from sensorium.processes import die_with_parent
from sensorium.scheduler.local import CLUSTER_TIMEOUT, LocalHandle, shell_call


class SlurmHandle(LocalHandle):
    """A job, and the `sbatch` that waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], job: str) -> None:
        super().__init__(process)
        self._job = job

    def cancel(self, force: bool = False) -> None:
        """See `Handle`; Slurm itself sends SIGTERM, then SIGKILL after its KillWait.

        By force, this process stops waiting as well, in case that the controller does not answer.
        """
        _cancel(self._job)
        if force:
            super().cancel(force=True)


def submit(gpus: int, command: str, environment: Mapping[str, str], folder: Path, log: Path) -> SlurmHandle:
    """Executor of the cluster that `sbatch` knows, whose nodes share the project's storage; a job gets `gpus` GPUs.

    A job that an earlier, killed run left is cancelled first. Jobs of one name wait for each other
    (singleton), so that two never write the same outputs.
    """
    job = job_name(folder, environment.get("DVC_STAGE", command))
    _cancel(job)
    call = ["sbatch", "--wait", "--quiet", f"--job-name={job}", "--dependency=singleton", f"--chdir={folder}"]
    call += [f"--output={log}", "--open-mode=append", "--export=ALL"]
    call += [f"--gpus={gpus}"] if gpus else []
    parent = os.getpid()
    process = subprocess.Popen(  # noqa: S603
        call,
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
    call = ["scancel", "--quiet", f"--name={job}", f"--user={getpass.getuser()}"]
    try:
        subprocess.run(call, timeout=CLUSTER_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        print(f"scancel gave no answer in {CLUSTER_TIMEOUT:.0f} s; job {job} may still run.", file=sys.stderr)  # noqa: T201
