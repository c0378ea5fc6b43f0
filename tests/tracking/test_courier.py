"""One courier delivers for all trainings of a project, waits for nobody, and holds nobody up."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from flaky_server import wait_until

from sensorium.commands import sync
from sensorium.errors import TrackingError
from sensorium.tracking import courier as courier_module
from sensorium.tracking.courier import ensure_running
from sensorium.tracking.delivery import deliver_leftovers
from sensorium.tracking.journal import Journal, journals
from sensorium.tracking.store import closing_seconds

EXPERIMENT = "true_batch_001"

_TRAINING = """
import sys
from pathlib import Path
from sensorium.config import load
from sensorium.paths import Paths
from sensorium.tracking import start_training_run
root, fold = Path(sys.argv[1]), int(sys.argv[2])
run = start_training_run(load(root / "params.yaml"), Paths(root), "true_batch_001", fold, sys.argv[2] * 64)
for step in range(3):
    run.metrics({"train/loss": 1.0, "val/correlation": step / 10}, step)
if sys.argv[3] == "wait":
    print("at work", flush=True)
    sys.stdin.read()
run.close("FINISHED")
"""


def training(project, fold, end="finish"):
    arguments = [sys.executable, "-c", _TRAINING, str(project.paths.root), str(fold), end]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def courier(project):
    """Process id of the courier that is or was at work; 0 when there was none yet."""
    (lock,) = project.store.state.glob("courier-*.lock")
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


def test_one_courier_serves_all_and_goes_when_nobody_is_left(project, monkeypatch):
    first, second = training(project, 0, "wait"), training(project, 1, "wait")
    for process in (first, second):
        assert process.stdout.readline() == "at work\n"
    wait_until(lambda: statuses(project) == {0: "RUNNING", 1: "RUNNING"})
    served_by = courier(project)
    first.communicate()
    second.send_signal(signal.SIGKILL)
    second.communicate()
    wait_until(lambda: statuses(project) == {0: "FINISHED", 1: "KILLED"})
    assert courier(project) == served_by
    wait_until(lambda: not is_alive(served_by))
    assert [journal.folder.name for journal in journals(project.store.state)] == [f"{EXPERIMENT}-fold_1-" + "1" * 16]


def test_a_courier_stays_for_the_next_training(project, monkeypatch):
    monkeypatch.setenv("SENSORIUM_COURIER_LINGER", "600")
    served_by = []
    for fold in range(2):
        training(project, fold).communicate()
        served_by.append(courier(project))
    kill(served_by[1])
    assert served_by[0] == served_by[1]
    assert statuses(project) == {0: "FINISHED", 1: "FINISHED"}


def test_a_courier_leaves_a_project_that_is_removed(project, monkeypatch):
    monkeypatch.setenv("SENSORIUM_COURIER_LINGER", "600")
    training(project, 0).communicate()
    served_by, root = courier(project), project.paths.root
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_until(lambda: not is_alive(served_by))
    assert list(root.iterdir()) == []


def test_a_damaged_journal_holds_no_other_up(project):
    damaged = Journal(project.store.state / "journals" / "true_batch_001-fold_2-damaged")
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
    wait_until(lambda: courier(project) > 0)
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
def test_a_courier_that_was_killed_is_replaced(project):
    process = training(project, 0, "wait")
    process.stdout.readline()
    wait_until(lambda: courier(project) > 0)
    kill(courier(project))
    process.communicate()
    training(project, 1).communicate()
    sync.run(project.paths)
    assert statuses(project) == {0: "FINISHED", 1: "FINISHED"}


def test_sync_waits_for_a_courier_at_work(project):
    process = training(project, 0, "wait")
    process.stdout.readline()
    journal = Journal(project.store.state / "journals" / (f"{EXPERIMENT}-fold_0-" + "0" * 16))
    wait_until(lambda: journal.is_attended)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sync.run(project.paths)
    assert statuses(project) == {0: "KILLED"}


@pytest.mark.parametrize(
    ("told", "duration", "seconds"), [(None, 10.0, 0.05), (None, 43_200.0, 15.0), ("30", 10.0, 30.0), ("0", 1e6, 0.0)]
)
def test_a_training_waits_for_a_small_share_of_its_duration(monkeypatch, told, duration, seconds):
    monkeypatch.delenv("SENSORIUM_TRACKING_PATIENCE")
    if told is not None:
        monkeypatch.setenv("SENSORIUM_TRACKING_PATIENCE", told)
    assert closing_seconds(duration) == pytest.approx(seconds)


def test_the_log_shows_where_a_fault_of_the_code_is_and_spares_that_of_a_server(caplog):
    for fault in (KeyError("bug"), TrackingError("no server")):
        courier_module._tell("journal", fault)
    of_code, of_server = caplog.records
    assert of_code.exc_info[0] is KeyError
    assert not of_server.exc_info


def test_leftovers_tell_of_a_server_and_a_damaged_journal_and_never_hide_a_fault_of_the_code(project, monkeypatch):
    damaged = Journal(project.store.state / "journals" / "true_batch_001-fold_2-damaged")
    damaged.append("metrics", values={})
    (told,) = deliver_leftovers(project.store).values()
    assert "events.jsonl: no event at byte 0: the journal is damaged" in told
    shutil.rmtree(damaged.folder)
    damaged.append("close", status="FINISHED")
    monkeypatch.setattr(Journal, "contents", lambda self: {}["bug"])
    with pytest.raises(KeyError):
        deliver_leftovers(project.store)
