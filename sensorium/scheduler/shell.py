"""The shell that DVC is given: it hands the command of a stage to an executor and waits.

DVC runs every command as `$SHELL -c <command>`. The coordinator sets SHELL to a script that starts this
module, so that DVC does all of its own work and only the place where commands run is replaced.
"""

import os
import select
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sensorium.files import waiting_lock, write_text
from sensorium.scheduler.executors import make_executor
from sensorium.scheduler.local import LOCK_VARIABLE, LOG_VARIABLE, wait
from sensorium.scheduler.processes import StopSignals


def install_shell(script: Path, executor: str, gpus: int) -> None:
    """Write the script that replaces the user's shell; each command asks the executor's cluster for `gpus` GPUs."""
    call = [sys.executable, "-m", __name__, executor, str(gpus), os.environ.get("SHELL") or "/bin/sh"]
    write_text(script, f'#!/bin/sh\nexec {shlex.join(call)} "$@"\n')
    script.chmod(0o755)


def main(arguments: Sequence[str]) -> int:
    """Run one command as `$SHELL -c <command>` would, end it when it is asked to stop, and return its exit code.

    Args:
        arguments: name of the executor, GPUs per command, the user's shell, `-c`, the command.
    """
    executor, gpus, user_shell, _, command = arguments
    began = time.monotonic()
    environment = {**os.environ, "SHELL": user_shell}
    # The lock makes the next run wait for this process, whose parents may all have been killed.
    with StopSignals() as signals, waiting_lock(Path(environment[LOCK_VARIABLE]), shared=True):
        if _parent_gone():
            return 128 + signal.SIGTERM
        submit = make_executor(executor, int(gpus))
        handle = submit(command, environment, Path.cwd(), Path(environment[LOG_VARIABLE]))
        signals.install()  # again: a cluster's library may have taken the signals
        (code,) = wait([handle], lambda: signals.count > 0 or _parent_gone())
    print(f"The command took {time.monotonic() - began:.2f} s, exit code {code}.", flush=True)  # noqa: T201 - the log
    return code


def _parent_gone() -> bool:
    """Whether the parent pipe is closed (see `processes.StageProcess`); nothing is ever written to it."""
    return bool(select.select([0], [], [], 0)[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
