"""Progress of a training on the terminal: a progress bar, or one line per epoch."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_REFRESHES_PER_SECOND = 2  # drawing takes milliseconds, in a thread that delays the training


class TrainingProgress:
    """A bar with loss, learning rate, samples per second and time left; lines where the output is no terminal."""

    def __init__(self, title: str, steps: int, epochs: int, console: Console | None = None) -> None:
        """Prepare the bar, which is shown while `bar` is entered.

        Args:
            title: what is trained.
            steps: optimizer steps per epoch.
            epochs: epochs of the whole training.
            console: where to print; standard error by default, so that a command's results stay apart. A quiet one
                shows nothing.
        """
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._title = title
        self._epochs = epochs
        self._speed = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4g}  lr {task.fields[rate]:.2e}  {task.fields[speed]:.0f} samples/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=self._console.quiet or not self._console.is_terminal,
            refresh_per_second=_REFRESHES_PER_SECOND,
        )
        self._task = self.bar.add_task(escape(title), total=epochs * steps, loss=float("nan"), rate=0.0, speed=0.0)

    def note(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(f"{escape(self._title)}: {escape(sentence)}")

    def advance(self, done: int, loss: float, learning_rate: float, speed: float) -> None:
        """Move the bar.

        Args:
            done: optimizer steps since the start of the training.
            loss: mean over the last few steps.
            learning_rate: of the next step.
            speed: samples per second.
        """
        self._speed = speed
        self.bar.update(self._task, completed=done, loss=loss, rate=learning_rate, speed=speed)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Print the scores of a finished epoch."""
        self.note(
            f"epoch {int(row['epoch']) + 1}/{self._epochs}  train loss {row['train_loss']:.4f}  "
            f"val loss {row['val_loss']:.4f}  val correlation {row['val_correlation']:.4f}  "
            f"{self._speed:.0f} samples/s"
        )
