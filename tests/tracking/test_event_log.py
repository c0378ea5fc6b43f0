"""The event log on disk: whole events, whatever the disk does."""

import errno
import os
from pathlib import Path

import pytest

from sensorium.errors import TrackingError
from sensorium.tracking.event_log import EventLog


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that takes part of an event and no more."""

    def fail(descriptor):
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        os.truncate(file, file.stat().st_size - 3)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def test_an_event_that_does_not_fit_leaves_whole_ones(tmp_path, request, monkeypatch):
    log = EventLog(tmp_path / "log")
    log.append("metrics", values={"train/loss": 1.0}, step=1)
    before = log.events_file.read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(TrackingError, match="No space left on device") as fault:
        log.append("metrics", values={"train/loss": 2.0}, step=2)
    assert "Free disk space" in fault.value.remedy
    assert log.events_file.read_bytes() == before
    monkeypatch.undo()
    log.append("metrics", values={"train/loss": 2.0}, step=2)
    assert [(event["step"], event["values"]) for event, _ in log.read()] == [
        (1, {"train/loss": 1.0}),
        (2, {"train/loss": 2.0}),
    ]


def test_a_file_that_does_not_fit_is_named(tmp_path):
    log, source = EventLog(tmp_path / "log"), tmp_path / "config.json"
    source.write_text("{}")
    log.folder.mkdir()
    (log.folder / "artifacts").write_text("in the way")
    with pytest.raises(TrackingError, match="log: what goes to MLflow cannot be written"):
        log.add_file(source)
