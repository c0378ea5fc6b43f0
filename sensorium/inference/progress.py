"""A progress bar over frames."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as _Task
from rich.text import Text

from sensorium.mice import FRAMES_PER_SECOND


class _Speed(ProgressColumn):
    """Recording seconds predicted in a second."""

    def render(self, task: _Task) -> Text:
        return Text(f"{(task.speed or 0) / FRAMES_PER_SECOND:.1f} x real time")


@contextlib.contextmanager
def frame_progress(title: str, frames: int) -> Iterator[Callable[[int], None]]:
    """Show progress on the terminal, or one line at the end where there is none.

    Args:
        title: what is done.
        frames: how many frames there are.

    Yields:
        What to call with the number of frames done since the last call.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=frames)
        yield lambda done: progress.advance(task, done)
