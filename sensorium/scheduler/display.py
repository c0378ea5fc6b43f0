"""What the person sees: events as lines and, on a terminal, the running stages in a table below them."""

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sensorium.scheduler.tasks import State, Task

_COLOURS = {
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.UNCHANGED: "dim",
    State.FAILED: "bold red",
    State.SKIPPED: "yellow",
    State.WAITING: "dim",
}


class Display:
    """Shows a run; used as a context."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def log(self, message: str) -> None:
        """Show an event."""
        self._console.print(escape(message), highlight=False, soft_wrap=True)

    def update(self, tasks: Iterable[Task]) -> None:
        """Show the state of all stages, where that is possible."""
        if self._live.is_started:
            self._live.update(table(list(tasks)), refresh=True)


def table(tasks: list[Task]) -> Table:
    """The running stages, and how many are in each state."""
    counts = {state: sum(task.state is state for task in tasks) for state in State}
    title = "  ".join(f"[{_COLOURS[state]}]{count} {state.value}[/]" for state, count in counts.items() if count)
    drawing = Table("running", "GPU", title=title, title_justify="left", title_style="", box=None)
    drawing.add_column("attempt", justify="right")
    drawing.add_column("time", justify="right")
    for task in tasks:
        if task.state is State.RUNNING:
            elapsed = duration(time.monotonic() - task.started)
            drawing.add_row(escape(task.name), task.gpu or "-", str(task.attempts), elapsed)
    return drawing


def duration(seconds: float) -> str:
    """A duration for people: `8.3 s`, `0:02:05`."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=int(seconds)))
