"""What a person sees of a run."""

import io
import time

from rich.console import Console

from sensorium.scheduler.display import Display, table
from sensorium.scheduler.tasks import Scheduler


def drawn(scheduler):
    console = Console(file=io.StringIO(), width=100)
    console.print(table(list(scheduler.tasks.values())))
    return console.file.getvalue()


def test_the_table_shows_what_runs_where_and_counts_the_rest():
    scheduler = Scheduler({"ingest@[a]": [], "train@fold_0": [], "late": ["ingest@[a]"]}, jobs=2, gpus=["4", "5"])
    for task in scheduler.start():
        task.started = time.monotonic() - 125
    shown = drawn(scheduler)
    assert shown.split()[:4] == ["1", "waiting", "2", "running"]
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if "@" in line}
    assert rows == {"ingest@[a]": ["4", "1", "0:02:05"], "train@fold_0": ["5", "1", "0:02:05"]}
    scheduler.finish("ingest@[a]", False)
    shown = drawn(scheduler)
    assert "1 failed" in shown
    assert "1 skipped" in shown
    assert "ingest@[a]" not in shown


def test_events_scroll_above_the_live_table():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    scheduler = Scheduler({"a": []})
    with Display(console) as display:
        list(scheduler.start())
        display.update(scheduler.tasks.values())
        display.log("a: [something] happened")
    text = console.file.getvalue()
    assert "1 running" in text
    assert "a: [something] happened" in text


def test_without_a_terminal_there_are_events_alone():
    console = Console(file=io.StringIO(), width=80)
    with Display(console) as display:
        display.update(Scheduler({"a": []}).tasks.values())
        display.log("a: started")
    assert console.file.getvalue() == "a: started\n"
