"""Which processes of a run still live: each holds a shared lock, which the kernel drops at its end.

A run that was killed leaves its stages a moment to save their state. The next run waits for them here;
process ids alone could not tell, since they are used again.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from sensorium.errors import PipelineError

_TICK = 0.05


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Show that this process is part of a run.

    Args:
        path: a file that exists.
    """
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def wait_for_release(path: Path, seconds: float) -> None:
    """Wait until no process claims `path`; the file is made when missing.

    Raises:
        PipelineError: processes of an earlier run still live after `seconds`.
    """
    end = time.monotonic() + seconds
    with path.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise PipelineError(
                        "Stages of an earlier run that was killed are still at work.",
                        f"Wait for them, or see who holds the file: fuser {path}",
                    ) from None
                time.sleep(_TICK)
            else:
                return
