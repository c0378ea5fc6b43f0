"""Runs that are interrupted or killed: nothing is left behind, nothing is lost, the next run goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from dvc.lock import make_lock
from toy_project import alive, diamond, meet, wait_until

from sensorium.errors import PipelineError
from sensorium.scheduler.local import LOCK_VARIABLE, LOG_VARIABLE
from sensorium.scheduler.processes import FAILED
from sensorium.scheduler.shell import install_shell

ENDURE = "echo $$ > pid; touch started; sleep 300 & wait"
"""A command that never ends by itself."""

SAVE = f"trap 'echo saved > saved; exit 1' TERM; {ENDURE}"
"""One that saves its state when it is asked to stop."""

STUBBORN = f"trap '' TERM; {ENDURE}"


def hang_once(command):
    """Hang the first time, pass the second."""
    return f"if [ ! -e started ]; then {command}; fi"


@pytest.fixture
def launch(processes):
    """Start `sensorium run` and wait until the hanging stage runs."""

    def start(toy, *arguments):
        run = toy.start("-j", "2", *arguments)
        processes.append(run)
        wait_until(toy.path("started").exists, "the stage to start")
        wait_until(lambda: toy.path("pid").read_text().strip(), "its process id")
        return run

    return start


def victim(toy):
    return int(toy.path("pid").read_text())


def equals_a_serial_run(toy):
    serial = toy.twin()
    serial.path("started").touch()
    serial.serial()
    return toy.lock() == serial.lock() and toy.path("four").read_bytes() == serial.path("four").read_bytes()


def test_a_killed_command_is_run_again(project, launch):
    toy = project(diamond(left=hang_once(SAVE)))
    run = launch(toy)
    os.kill(victim(toy), signal.SIGKILL)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert "left: failed after" in output
    assert toy.path("saved").exists()  # by the process under the killed one
    assert equals_a_serial_run(toy)


def test_a_killed_dvc_takes_its_command_with_it_and_is_run_again(project, launch):
    toy = project(diamond(left=hang_once(SAVE)))
    run = launch(toy)
    pid = victim(toy)
    os.kill(os.getsid(pid), signal.SIGKILL)  # the leader of the session is the process that runs DVC
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert "left: killed by SIGKILL" in output
    assert not alive(pid)
    assert toy.path("saved").exists()
    assert equals_a_serial_run(toy)


def test_a_killed_run_leaves_no_process_and_the_next_goes_on(project, launch):
    toy = project(diamond(left=hang_once(SAVE)))
    run = launch(toy)
    wait_until(lambda: "right" in toy.recorded(), "the other branch")
    run.kill()
    run.wait()
    wait_until(lambda: not alive(victim(toy)), "the command to end")
    assert toy.path("saved").exists()
    assert sorted(toy.recorded()) == ["first", "right"]
    assert not toy.path("two").exists()
    toy.run(jobs=2)
    assert equals_a_serial_run(toy)


def test_the_next_run_waits_for_what_a_killed_one_left(project, launch):
    slow = f"trap 'sleep 1; echo saved > saved; exit 1' TERM; {ENDURE}"
    toy = project(diamond(left=hang_once(slow) + "; [ -e saved ]"))
    run = launch(toy)
    run.kill()
    run.wait()
    toy.run(jobs=2, retries=0)
    assert toy.clean()


def test_a_stage_that_starts_after_its_run_was_killed_does_nothing(project):
    toy = project(diamond())
    toy.path("orders.json").write_text("{}")
    install_shell(toy.path("shell"), "local", 0)
    paths = {LOG_VARIABLE: "log", LOCK_VARIABLE: "stages.lock", "SHELL": str(toy.path("shell"))}
    call = [sys.executable, "-m", "sensorium.scheduler.stage", "run", "orders.json", "first"]
    done = subprocess.run(call, cwd=toy.root, env={**os.environ, **paths}, stdin=subprocess.DEVNULL)
    assert done.returncode == FAILED
    assert not toy.path("one").exists()
    assert not toy.recorded()


def test_lock_entries_keep_their_order_over_a_killed_run(project, launch):
    toy = project(diamond(left=hang_once(ENDURE)))
    run = launch(toy)
    wait_until(lambda: "right" in toy.recorded(), "the other branch")
    run.kill()
    run.wait()
    toy.run(jobs=1)
    assert toy.recorded() == ["first", "left", "right", "last"]


def test_ctrl_c_lets_stages_save_their_state(project, launch):
    toy = project(diamond(left=hang_once(SAVE)))
    run = launch(toy)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate()
    assert run.returncode == 130
    assert "left: interrupted" in output
    assert "Traceback" not in output
    assert toy.path("saved").exists()
    assert not alive(victim(toy))
    assert not toy.path("two").exists()
    toy.run(jobs=2)
    assert equals_a_serial_run(toy)


def test_a_second_ctrl_c_kills(project, launch):
    toy = project(diamond(left=hang_once(STUBBORN)))
    run = launch(toy)
    run.send_signal(signal.SIGINT)
    for line in run.stdout:
        if "Ctrl-C again" in line:
            break
    assert alive(victim(toy))
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert run.returncode == 130
    assert not alive(victim(toy))
    toy.run(jobs=2)
    assert equals_a_serial_run(toy)


def test_two_runs_at_once_are_refused(project, launch):
    toy = project(diamond(left=hang_once(ENDURE)))
    run = launch(toy)
    with pytest.raises(PipelineError, match="Another `sensorium run` is at work"):
        toy.run(jobs=2)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 130


def test_dvc_is_free_while_a_command_runs(project, launch):
    toy = project(diamond(left=hang_once(f"touch started; echo $$ > pid; {meet('left', 'outside')}")))
    run = launch(toy)
    with make_lock(str(toy.path(".dvc/tmp/lock")), wait=True):
        toy.path("outside.here").touch()
        with pytest.raises(subprocess.TimeoutExpired):  # the stage waits to record its result
            run.wait(timeout=1)
        assert "left" not in toy.recorded()
    assert run.wait() == 0
    assert toy.clean()


@pytest.mark.parametrize("damage", ["", "{", '{"write": '])
def test_a_table_of_busy_paths_cut_short_is_dropped(project, damage):
    toy = project(diamond())
    toy.path(".dvc/tmp/rwlock").write_text(damage)
    toy.run(jobs=2)
    assert toy.clean()


def test_locks_of_running_processes_stay(project):
    toy = project(diamond())
    info = {"pid": os.getpid(), "cmd": "someone else"}
    table = {"write": {str(toy.path("two")): info}, "read": {}}
    toy.path(".dvc/tmp/rwlock").write_text(json.dumps(table))
    with pytest.raises(PipelineError, match="1 of 4 stages failed, 1 were not run: left"):
        toy.run(jobs=2, retries=0)
    assert "is busy" in toy.log("left")
    assert json.loads(toy.path(".dvc/tmp/rwlock").read_text())["write"] == table["write"]


def test_dvc_lock_is_never_seen_unfinished(project, processes):
    """Read it all the time while stages are recorded: each text is whole."""
    toy = project({f"s{i}": {"cmd": f"echo {i} > o{i}", "outs": [f"o{i}"]} for i in range(8)})
    run = toy.start("-j", "4")
    processes.append(run)
    seen = set()
    while run.poll() is None:
        if toy.path("dvc.lock").exists():
            text = toy.lock()
            seen.add(text)
        time.sleep(0.002)  # leaves the cores to the stages
    assert run.returncode == 0
    assert len(seen) >= 4
    for text in seen:
        assert all(entry["outs"][0]["md5"] for entry in yaml.safe_load(text)["stages"].values())
