"""Progress of a training on the terminal: a progress bar, or one line per epoch."""

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_REFRESHES_PER_SECOND = 2
"""Drawing takes milliseconds, in a thread that delays the training."""


class TrainingProgress(Protocol):
    """Shows a training; only the first of several processes has more than `NullProgress`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, sentence: str) -> None:
        """Say something once."""
        ...

    def advance(self, done: int, loss: float, learning_rate: float, speed: float) -> None:
        """Show the present.

        Args:
            done: optimizer steps since the start of the training.
            loss: mean over the last few steps.
            learning_rate: of the next step.
            speed: samples per second.
        """
        ...

    def epoch(self, row: Mapping[str, float]) -> None:
        """Show a finished epoch."""
        ...


class NullProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def note(self, sentence: str) -> None:
        """Do nothing."""

    def advance(self, done: int, loss: float, learning_rate: float, speed: float) -> None:
        """Do nothing."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """Do nothing."""


class TerminalProgress:
    """A bar with loss, learning rate, samples per second and time left; lines where nothing can move."""

    def __init__(self, title: str, steps: int, epochs: int, console: Console | None = None) -> None:
        """Prepare.

        Args:
            title: what is trained.
            steps: optimizer steps per epoch.
            epochs: epochs of the whole training.
            console: where to; standard error by default, so that a command's results stay apart.
        """
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._title = title
        self._epochs = epochs
        self._speed = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4g}  lr {task.fields[rate]:.2e}  {task.fields[speed]:.0f} samples/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            refresh_per_second=_REFRESHES_PER_SECOND,
        )
        self._task: TaskID = self._bar.add_task(
            escape(title), total=epochs * steps, loss=float("nan"), rate=0.0, speed=0.0
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(f"{escape(self._title)}: {escape(sentence)}")

    def advance(self, done: int, loss: float, learning_rate: float, speed: float) -> None:
        """Move the bar."""
        self._speed = speed
        self._bar.update(self._task, completed=done, loss=loss, rate=learning_rate, speed=speed)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Print a line."""
        self.note(
            f"epoch {int(row['epoch']) + 1}/{self._epochs}  train loss {row['train_loss']:.4f}  "
            f"val loss {row['val_loss']:.4f}  val correlation {row['val_correlation']:.4f}  "
            f"{self._speed:.0f} samples/s"
        )
