"""What a person sees of a run."""

import io
import time

import pytest
from rich.console import Console

from sensorium.repro.live import LiveTable, clock, table
from sensorium.repro.scheduler import Scheduler


def drawn(scheduler, started):
    console = Console(file=io.StringIO(), width=100)
    console.print(table(scheduler.tasks.values(), started))
    return console.file.getvalue()


def test_the_table_shows_what_runs_where_and_counts_the_rest():
    scheduler = Scheduler({"ingest@[a]": [], "train@fold_0": [], "late": ["ingest@[a]"]}, jobs=2, gpus=["4", "5"])
    now = time.monotonic()
    started = {task.name: now - 125 for task in scheduler.start()}
    shown = drawn(scheduler, started)
    assert shown.split()[:4] == ["1", "waiting", "2", "running"]
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if "@" in line}
    assert rows == {"ingest@[a]": ["4", "1", "2:05"], "train@fold_0": ["5", "1", "2:05"]}
    scheduler.finish("ingest@[a]", False)
    shown = drawn(scheduler, started)
    assert "1 failed" in shown
    assert "1 skipped" in shown
    assert "ingest@[a]" not in shown


def test_events_scroll_above_the_live_table():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    scheduler = Scheduler({"a": []})
    with LiveTable(console) as view:
        started = {task.name: time.monotonic() for task in scheduler.start()}
        view.show(scheduler.tasks.values(), started)
        view.say("a: [something] happened")
    text = console.file.getvalue()
    assert "1 running" in text
    assert "a: [something] happened" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1:00"), (3725, "1:02:05")])
def test_durations_are_for_people(seconds, text):
    assert clock(seconds) == text
