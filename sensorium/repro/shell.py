"""The shell that DVC is told to use: it hands the command of a stage to an executor and waits.

DVC runs every command as `$SHELL -c <command>`. The coordinator sets SHELL to a script that starts this
module, so that DVC keeps doing all of its own work and only the place where commands run is replaced.
When its parent ends or it is told to end, the command ends: first by SIGTERM, so that a training saves
its state, then by SIGKILL.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sensorium.repro.backends import make_executor
from sensorium.repro.claims import claim
from sensorium.repro.deathsig import die_with_parent
from sensorium.repro.executors import GRACE, Handle
from sensorium.repro.variables import CLAIMS, EXECUTOR, GPUS, LOG, PARENT, USER_SHELL

_TICK = 0.02

_TOLD = 128 + signal.SIGTERM
"""Exit code when told to end before the command began."""


def wait(handle: Handle, told: Sequence[float], grace: float = GRACE) -> int:
    """Wait for a command, and end it once the process was told to end.

    Args:
        handle: the command.
        told: times of `time.monotonic` at which the process was told to end; a signal handler appends.
        grace: seconds from the first of them until the command is killed.

    Returns:
        Exit code of the command.
    """
    cancelled = False
    while (code := handle.poll()) is None:
        if told and not cancelled:
            handle.cancel()
            cancelled = True
        if told and time.monotonic() - told[0] > grace:
            handle.cancel(force=True)
        time.sleep(_TICK)
    return code


def main(arguments: Sequence[str]) -> int:
    """Run one command as `$SHELL -c <command>` would.

    Returns:
        Exit code of the command.
    """
    began = time.monotonic()
    told: list[float] = []
    _listen(told)
    environment = dict(os.environ)
    die_with_parent(signal.SIGTERM, int(environment.pop(PARENT)))
    assert len(arguments) == 2, arguments
    assert arguments[0] == "-c", arguments
    executor = make_executor(environment.pop(EXECUTOR), int(environment.pop(GPUS)))
    environment["SHELL"] = environment.pop(USER_SHELL)
    with claim(Path(environment[CLAIMS])):
        if told:
            return _TOLD
        handle = executor.submit(arguments[1], environment, Path.cwd(), Path(environment[LOG]))
        _listen(told)  # again: a cluster's library may have taken the signals
        code = wait(handle, told)
    print(f"The command took {time.monotonic() - began:.2f} s, exit code {code}.", flush=True)  # noqa: T201 - the log
    return code


def _listen(told: list[float]) -> None:
    def note(_signal: int, _frame: FrameType | None) -> None:
        told.append(time.monotonic())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
