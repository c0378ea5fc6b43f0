"""What the person sees: events as lines and, on a terminal, the running stages below them."""

from collections.abc import Collection
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID, TextColumn, TimeElapsedColumn

from sensorium.scheduler.tasks import State, Task


class Display(Progress):
    """Shows a run; used as a context."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        columns = TextColumn("{task.description}"), TimeElapsedColumn()
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._summary = self.add_task("")
        self._rows: dict[tuple[str, int], TaskID] = {}

    def event(self, message: str) -> None:
        """Show an event."""
        self.console.print(escape(message), highlight=False, soft_wrap=True)

    def show(self, tasks: Collection[Task]) -> None:
        """Show how many stages are in each state, and those that run."""
        states = [task.state for task in tasks]
        counts = ", ".join(f"{states.count(state)} {state.value}" for state in State if state in states)
        running = {(task.name, task.attempts): task for task in tasks if task.state is State.RUNNING}
        self.update(self._summary, description=f"[bold]{counts}")
        for key in self._rows.keys() - running.keys():
            self.remove_task(self._rows.pop(key))
        for key, task in running.items():
            if key not in self._rows:
                note = f"{f' on GPU {task.gpu}' if task.gpu else ''}{f', attempt {key[1]}' if key[1] > 1 else ''}"
                self._rows[key] = self.add_task(f"  {escape(task.name)}{note}")


def duration(seconds: float) -> str:
    """A duration for people: `8.3 s`, `0:02:05`."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=int(seconds)))
