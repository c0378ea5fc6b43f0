"""What a person sees of a run."""

import io

from rich.console import Console

from sensorium.scheduler.display import Display
from sensorium.scheduler.tasks import Scheduler


def drawn(display, scheduler):
    display.show(scheduler.tasks.values())
    console = Console(file=io.StringIO(), width=100)
    console.print(display.get_renderable())
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_the_table_shows_what_runs_where_and_counts_the_rest():
    scheduler = Scheduler({"ingest@[a]": [], "train@fold_0": [], "late": ["ingest@[a]"]}, 2, ["4", "5"], retries=1)
    display = Display()
    list(scheduler.start())
    assert drawn(display, scheduler) == [
        "1 waiting, 2 running 0:00:00",
        "ingest@[a] on GPU 4 0:00:00",
        "train@fold_0 on GPU 5 0:00:00",
    ]
    scheduler.finish("ingest@[a]", False)
    list(scheduler.start())
    assert "ingest@[a] on GPU 4, attempt 2 0:00:00" in drawn(display, scheduler)
    scheduler.finish("ingest@[a]", False)
    assert drawn(display, scheduler) == ["1 running, 1 failed, 1 skipped 0:00:00", "train@fold_0 on GPU 5 0:00:00"]


def test_events_scroll_above_the_live_table():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    scheduler = Scheduler({"a": []})
    with Display(console) as display:
        list(scheduler.start())
        display.show(scheduler.tasks.values())
        display.event("a: [something] happened")
    text = console.file.getvalue()
    assert "1 running" in text
    assert "a: [something] happened" in text


def test_without_a_terminal_there_are_events_alone():
    console = Console(file=io.StringIO(), width=80)
    with Display(console) as display:
        display.show(Scheduler({"a": []}).tasks.values())
        display.event("a: started")
    assert console.file.getvalue() == "a: started\n"
