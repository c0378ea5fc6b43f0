"""What the person sees: a live table on a terminal, one line an event elsewhere."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sensorium.repro.scheduler import State, Task

_COLOURS = {
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.UNCHANGED: "dim",
    State.FAILED: "bold red",
    State.SKIPPED: "yellow",
    State.WAITING: "dim",
}


class View(Protocol):
    """Shows a run; used as a context."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, message: str) -> None:
        """Show an event for good."""
        ...

    def show(self, tasks: Iterable[Task], started: dict[str, float]) -> None:
        """Show the present.

        Args:
            tasks: all stages.
            started: running stage -> `time.monotonic` of its start.
        """
        ...


class Lines:
    """One line an event, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        return None

    def say(self, message: str) -> None:
        """See `View`."""
        self._console.print(escape(message), highlight=False, soft_wrap=True)

    def show(self, tasks: Iterable[Task], started: dict[str, float]) -> None:
        """The present is not shown in a log."""


class LiveTable(Lines):
    """Events scroll above a table of the running stages."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        # Without its refreshing thread: the coordinator stays single-threaded.
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_fault: object) -> None:
        self._live.stop()

    def show(self, tasks: Iterable[Task], started: dict[str, float]) -> None:
        """See `View`."""
        self._live.update(table(tasks, started), refresh=True)


def table(tasks: Iterable[Task], started: dict[str, float]) -> Table:
    """The running stages, and how many stand where."""
    tasks = list(tasks)
    now = time.monotonic()
    drawing = Table(title=_counts(tasks), title_justify="left", title_style="", box=None)
    drawing.add_column("running")
    drawing.add_column("GPU")
    drawing.add_column("attempt", justify="right")
    drawing.add_column("time", justify="right")
    for task in tasks:
        if task.state is State.RUNNING and task.name in started:
            elapsed = clock(now - started[task.name])
            drawing.add_row(escape(task.name), task.gpu or "-", str(task.attempts), elapsed)
    return drawing


def _counts(tasks: list[Task]) -> str:
    counts = {state: sum(task.state is state for task in tasks) for state in State}
    return "  ".join(f"[{_COLOURS[state]}]{count} {state.value}[/]" for state, count in counts.items() if count)


def clock(seconds: float) -> str:
    """A duration for people: `8.3 s`, `2:05`, `3:02:05`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_view() -> View:
    """The view that fits standard output."""
    console = Console()
    return LiveTable(console) if console.is_terminal else Lines(console)
