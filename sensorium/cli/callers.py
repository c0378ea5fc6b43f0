"""What whoever started the command learns besides its exit code: the run of `mlflow run`, a verb that runs stages."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sensorium.errors import REASON_VARIABLE, SensoriumError
from sensorium.paths import Paths, find_root

_RUN_VARIABLE = "MLFLOW_RUN_ID"
_log = logging.getLogger(__name__)


class Refusal(SystemExit):
    """The end of a command that was refused."""

    def __init__(self, exit_code: int, message: str) -> None:
        self.message = message
        super().__init__(exit_code)


@contextmanager
def told_to_callers(arguments: Sequence[str]) -> Iterator[None]:
    """Tell whoever started the command how it ended.

    Args:
        arguments: the command without its program.
    """
    message = None
    try:
        yield
    except Refusal as refusal:
        message = refusal.message
        raise
    except Exception as fault:
        message = f"{type(fault).__name__}: {fault}"
        raise
    finally:
        if message is not None and (path := os.environ.get(REASON_VARIABLE)):
            with contextlib.suppress(FileNotFoundError):  # the caller has left, and its folder is gone
                Path(path).write_text(message, encoding="utf-8")
        if os.environ.get(_RUN_VARIABLE):
            _note(arguments, message)


def _note(arguments: Sequence[str], message: str | None) -> None:
    from sensorium.tracking.project_run import note_run

    try:
        note_run(Paths(find_root()), arguments, message)
    except (SensoriumError, OSError) as fault:  # the command itself is over
        _log.warning("%s", fault)
