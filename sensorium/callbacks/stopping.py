"""When to end early: a signal, or the death of whoever started the training.

`dvc repro` that is terminated leaves its stage running, and the next repro would start a second
trainer on the same output. A trainer that runs as a DVC stage therefore ends with its parent.
"""

import os
import signal
from types import FrameType
from typing import Self

import psutil

from sensorium.errors import TrainingError
from sensorium.processes import die_with_parent

STAGE_VARIABLE = "DVC_STAGE"
"""Environment variable that DVC sets for a stage's command."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _orphaned() -> bool:
    """Whether init has already adopted this process: its first parent died before anyone could notice."""
    parent = os.getppid()
    try:
        adopter = parent == 1 or psutil.Process(parent).name() == "systemd"
    except psutil.Error:
        return False
    return adopter and os.getpgid(parent) != os.getpgid(0)  # in a container process 1 may be the true parent


def _ancestors(generations: int) -> list[int | None]:
    """Process ids of the parent, its parent, and so on; None where one has died."""
    chain: list[int | None] = [os.getppid()]
    while len(chain) < generations and chain[-1] is not None:
        try:
            chain.append(psutil.Process(chain[-1]).ppid())
        except psutil.Error:
            chain.append(None)
    return chain


class ParentWatch:
    """Notices the death of the processes that started this one."""

    def __init__(self, generations: int) -> None:
        """Record the present ancestors: the parent alone for 1, its parent too for 2, ..."""
        self.orphaned = _orphaned()
        self.chain = _ancestors(generations)

    def died(self) -> bool:
        """Whether one of them has died."""
        return self.orphaned or _ancestors(len(self.chain)) != self.chain


def watch_parents(between: int = 0) -> ParentWatch | None:
    """The processes that started a DVC stage; None outside of one.

    DVC starts a stage through a shell, and some shells keep running in between: the shell's parent counts too,
    as do so many processes `between` the stage's command and this one.
    """
    if STAGE_VARIABLE in os.environ:
        return ParentWatch(generations=2 + between)
    return ParentWatch(generations=between) if between else None


class StopRequest:
    """While entered, turns signals into a flag that the loop reads between two steps.

    A second Ctrl-C ends the process at once. Nothing half-written can remain: see `sensorium.files`.
    """

    def __init__(self, parents: ParentWatch | None) -> None:
        """Make the flag; `parents` are processes whose death sets it as well."""
        self._received: int | None = None
        self._handlers: dict[int, object] = {}
        self._parents = parents

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and should keep doing so
                self._handlers[number] = signal.signal(number, self._receive)
        if self._parents is not None:
            die_with_parent()  # one that died before is noticed by `ParentWatch`
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- Python passes both
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or number

    def received(self) -> int:
        """Number of the signal to end by; 0 to continue."""
        if self._received is None and self._parents is not None and self._parents.died():
            self._received = signal.SIGTERM
        return self._received or 0


class PrunedError(TrainingError):
    """The training was ended between two epochs, since its results are not promising."""


class StoppedError(TrainingError):
    """The training was asked to stop, and its checkpoint is saved."""

    def __init__(self, number: int, epoch: int, step: int) -> None:
        """Describe the signal, and the epoch, counted from 0, after how many of whose steps it came."""
        super().__init__(
            f"training stopped by {signal.Signals(number).name} in epoch {epoch + 1} after {step} steps; "
            "a checkpoint is saved.",
            "Run the same command again: it continues from there.",
        )
        self.exit_code = 128 + number
