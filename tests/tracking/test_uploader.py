"""One uploader serves all trainings of a project, waits for nobody, and holds nobody up."""

import fcntl
import os
import shutil
import signal
from unittest.mock import Mock

import psutil
import pytest
from flaky_server import wait_until
from training_process import training

from sensorium.commands import sync
from sensorium.errors import TrackingError
from sensorium.tracking.event_log import EventLog, event_logs
from sensorium.tracking.timeouts import closing_seconds
from sensorium.tracking.uploader import Uploader, upload_remaining
from sensorium.tracking.uploader_process import UploadTask, ensure_running

EXPERIMENT = "true_batch_001"


def uploader(project):
    """Process id of the uploader that is or was at work; 0 when there was none yet."""
    (lock,) = project.store.state.glob("uploader-*.lock")
    return int(lock.read_text() or 0)


def is_alive(pid):
    assert pid > 0
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid):
    assert pid > 0
    os.kill(pid, signal.SIGKILL)


def statuses(project):
    client = project.store.client()
    found = client.get_experiment_by_name("sensorium-demo")
    runs = client.search_runs([found.experiment_id], "tags.`sensorium.role` = 'fold'") if found else []
    return {int(run.data.tags["sensorium.fold"]): run.info.status for run in runs}


def test_one_uploader_serves_all_and_goes_when_nobody_is_left(project, monkeypatch):
    first, second = training(project, 0, "wait"), training(project, 1, "wait")
    for process in (first, second):
        assert process.stdout.readline() == "at work\n"
    wait_until(lambda: statuses(project) == {0: "RUNNING", 1: "RUNNING"})
    served_by = uploader(project)
    first.communicate()
    second.send_signal(signal.SIGKILL)
    second.communicate()
    wait_until(lambda: statuses(project) == {0: "FINISHED", 1: "KILLED"})
    assert uploader(project) == served_by
    wait_until(lambda: not is_alive(served_by))
    assert [log.folder.name for log in event_logs(project.store.state)] == [f"{EXPERIMENT}-fold_1-" + "1" * 16]


def test_an_uploader_stays_for_the_next_training(project, monkeypatch):
    monkeypatch.setenv("SENSORIUM_UPLOADER_IDLE_TIMEOUT", "600")
    served_by = []
    for fold in range(2):
        training(project, fold).communicate()
        served_by.append(uploader(project))
    kill(served_by[1])
    assert served_by[0] == served_by[1]
    assert statuses(project) == {0: "FINISHED", 1: "FINISHED"}


def test_an_uploader_leaves_a_project_that_is_removed(project, monkeypatch):
    monkeypatch.setenv("SENSORIUM_UPLOADER_IDLE_TIMEOUT", "600")
    training(project, 0).communicate()
    served_by, root = uploader(project), project.paths.root
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_until(lambda: not is_alive(served_by))
    assert list(root.iterdir()) == []


def test_a_damaged_event_log_holds_no_other_up(project):
    damaged = EventLog(project.store.state / "journals" / "true_batch_001-fold_2-damaged")
    damaged.folder.mkdir(parents=True)
    damaged.events_file.write_bytes(b"\xff no event\n")
    training(project, 0).communicate()
    assert statuses(project) == {0: "FINISHED"}
    assert damaged.events_file.exists()


def test_a_descriptor_of_the_caller_is_not_kept(project, tmp_path):
    """Such as that of `flock lock sensorium train`: the lock is free when the command is over."""
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        ensure_running(project.store)
    wait_until(lambda: uploader(project) > 0)
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
def test_an_uploader_that_was_killed_is_replaced(project):
    process = training(project, 0, "wait")
    process.stdout.readline()
    wait_until(lambda: uploader(project) > 0)
    kill(uploader(project))
    process.communicate()
    training(project, 1).communicate()
    sync.run(project.paths)
    assert statuses(project) == {0: "FINISHED", 1: "FINISHED"}


def test_sync_waits_for_an_uploader_at_work(project):
    process = training(project, 0, "wait")
    process.stdout.readline()
    log = EventLog(project.store.state / "journals" / (f"{EXPERIMENT}-fold_0-" + "0" * 16))
    wait_until(lambda: log.is_held("uploader"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sync.run(project.paths)
    assert statuses(project) == {0: "KILLED"}


@pytest.mark.parametrize(
    ("name", "value", "duration", "seconds"),
    [
        ("TIMEOUT", "", 10.0, 0.05),
        ("TIMEOUT", "", 43_200.0, 15.0),
        ("TIMEOUT", "30", 10.0, 30.0),
        ("TIMEOUT", "0", 1e6, 0.0),
        ("PATIENCE", "30", 10.0, 30.0),
    ],
)
def test_a_training_waits_for_a_small_share_of_its_duration(monkeypatch, caplog, name, value, duration, seconds):
    monkeypatch.delenv("SENSORIUM_TRACKING_TIMEOUT")
    if value:
        monkeypatch.setenv(f"SENSORIUM_TRACKING_{name}", value)
    assert closing_seconds(duration) == closing_seconds(duration) == pytest.approx(seconds)
    warned = [
        "SENSORIUM_TRACKING_PATIENCE is now called SENSORIUM_TRACKING_TIMEOUT" in text for text in caplog.messages
    ]
    assert warned == [True] * (name == "PATIENCE")


def test_the_log_shows_where_a_fault_of_the_code_is_and_spares_that_of_a_server(project, monkeypatch, caplog):
    log = EventLog(project.store.state / "journals" / "log")
    log.append("close", status="FINISHED")
    for fault in (KeyError("bug"), TrackingError("no server"), ConnectionResetError()):
        monkeypatch.setattr(Uploader, "upload", Mock(side_effect=fault))
        task = UploadTask(log, project.store)
        task.step()
        task.lock.close()
    of_code, *of_server = caplog.records
    assert of_code.exc_info[0] is KeyError
    assert [record.exc_info for record in of_server] == [None, None]


def test_leftovers_tell_of_a_server_and_a_damaged_event_log_and_never_hide_a_fault_of_the_code(project, monkeypatch):
    damaged = EventLog(project.store.state / "journals" / "true_batch_001-fold_2-damaged")
    damaged.append("metrics", values={})
    (told,) = upload_remaining(project.store).values()
    assert "events.jsonl: no event at byte 0: the event log is damaged" in told
    shutil.rmtree(damaged.folder)
    damaged.append("close", status="FINISHED")
    monkeypatch.setattr(EventLog, "header", property(lambda self: {}["bug"]))
    with pytest.raises(KeyError):
        upload_remaining(project.store)
