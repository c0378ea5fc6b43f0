"""Where the loop reports to: a narrow protocol, so that training knows nothing of MLflow."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from sensorium.errors import SensoriumError
from sensorium.training.stopping import PrunedError, StoppedError

_log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words; KILLED is a run that was stopped and may go on, or that a sweep pruned."""


class Recorder(Protocol):
    """Takes note of a run. A recorder never waits for a server; only a disk that is full fails the training.

    After a restart the loop reports steps anew that it had reported before; an implementation keeps
    the first report of each step and name, so that every step stands once.
    """

    def params(self, values: Mapping[str, object]) -> None:
        """Note the settings of the run, by dotted key."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note measurements.

        Args:
            values: by name, such as `train/loss`.
            step: optimizer steps done since the start of the training.
        """
        ...

    def artifact(self, path: Path) -> None:
        """Attach a file or folder; it must stay unchanged until `close`."""
        ...

    def close(self, status: Status) -> None:
        """End the run and wait until everything noted is safe."""
        ...


class NullRecorder:
    """Takes note of nothing."""

    def params(self, values: Mapping[str, object]) -> None:
        """Do nothing."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def artifact(self, path: Path) -> None:
        """Do nothing."""

    def close(self, status: Status) -> None:
        """Do nothing."""


@contextmanager
def closing(recorder: Recorder) -> Iterator[None]:
    """Close a recorder with the status that fits how the block ended, and why it ended stays the error."""
    try:
        yield
    except BaseException as fault:
        try:
            recorder.close("KILLED" if isinstance(fault, StoppedError | PrunedError | KeyboardInterrupt) else "FAILED")
        except SensoriumError as second:
            _log.warning("%s", second)
        raise
    recorder.close("FINISHED")
