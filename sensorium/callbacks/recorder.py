"""The interface through which a training logs parameters, metrics and artifacts: the loop does not know MLflow."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sensorium.callbacks.stopping import PrunedError, StoppedError
from sensorium.errors import SensoriumError

_log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words; KILLED is a run that was stopped and may continue, or that a sweep pruned."""


class Recorder:
    """Logs a run; this base class logs nothing, as every process but the first.

    A recorder never waits for a server; only a full disk fails the training. After a restart the loop logs some steps
    again; an implementation keeps the first value of each step and name.
    """

    def params(self, values: Mapping[str, object]) -> None:
        """Log the settings of the run, by dotted key."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics.

        Args:
            values: by name, such as `train/loss`.
            step: optimizer steps done since the start of the training.
        """

    def artifact(self, path: Path) -> None:
        """Attach a file or folder; it must stay unchanged until `close`."""

    def close(self, status: Status) -> None:
        """End the run and wait until everything is on disk."""


@contextmanager
def closing(recorder: Recorder) -> Iterator[None]:
    """Close a recorder with the status that fits how the block ended, the error of the block stays the error."""
    try:
        yield
    except BaseException as fault:
        try:
            recorder.close("KILLED" if isinstance(fault, StoppedError | PrunedError | KeyboardInterrupt) else "FAILED")
        except SensoriumError as second:
            _log.warning("%s", second)
        raise
    recorder.close("FINISHED")
