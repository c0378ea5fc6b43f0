"""What every executor promises, and runs through a cluster's."""

import os
import signal
import sys
from pathlib import Path

import pytest
from toy_project import alive, diamond, wait_until

from sensorium.errors import ConfigError, PipelineError
from sensorium.scheduler import shell
from sensorium.scheduler.executors import make_executor
from sensorium.scheduler.local import wait

SLURM = Path(__file__).parent / "slurm"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A stand-in for Slurm's commands; the folder of its state."""
    state = tmp_path / "slurm"
    state.mkdir()
    monkeypatch.setenv("SLURM_STAND_IN", str(state))
    monkeypatch.setenv("PATH", f"{SLURM}{os.pathsep}{os.environ['PATH']}")
    return state


@pytest.fixture(params=["local", "slurm"])
def executor(request, slurm):
    return make_executor(request.param, 0)


@pytest.fixture
def submit(executor, tmp_path):
    """Submit a command, in a folder of its own."""
    handles = []

    def start(command, **environment):
        environment = {**os.environ, "DVC_STAGE": f"stage@{len(handles)}", **environment}
        handles.append(executor(command, environment, tmp_path, tmp_path / "log"))
        return handles[-1]

    yield start
    for handle in handles:
        if handle.poll() is None:
            handle.cancel(force=True)
            wait([handle])


def test_the_exit_code_is_the_commands(submit):
    assert wait([submit("true")]) == [0]
    assert wait([submit("exit 7")]) == [7]


def test_the_command_sees_its_folder_and_environment(submit, tmp_path):
    handle = submit('echo "$COLOUR $(pwd)" > seen', COLOUR="deep red")
    assert wait([handle]) == [0]
    assert (tmp_path / "seen").read_text() == f"deep red {tmp_path}\n"


def test_output_is_appended_to_the_log(submit, tmp_path):
    (tmp_path / "log").write_text("earlier\n")
    assert wait([submit("echo out; echo err >&2")]) == [0]
    assert (tmp_path / "log").read_text() == "earlier\nout\nerr\n"


def test_quotes_and_lines_arrive_as_written(submit, tmp_path):
    assert wait([submit("""echo 'a "b" $c' > seen\necho "it's" >> seen""")]) == [0]
    assert (tmp_path / "seen").read_text() == 'a "b" $c\nit\'s\n'


def test_a_command_killed_by_a_signal_is_a_failure(submit):
    assert wait([submit("kill -9 $$")]) != [0]


def test_a_cancelled_command_may_save_its_state(submit, tmp_path):
    handle = submit("trap 'echo yes > saved; exit 5' TERM; touch here; sleep 60 & wait")
    wait_until((tmp_path / "here").exists)
    assert handle.poll() is None
    handle.cancel()
    assert wait([handle]) == [5]
    assert (tmp_path / "saved").read_text() == "yes\n"


def test_a_stubborn_command_is_killed_after_the_grace(submit, tmp_path):
    handle = submit("trap '' TERM; echo $$ > pid; touch here; while :; do sleep 0.1; done")
    wait_until((tmp_path / "here").exists)
    assert wait([handle], lambda: True, grace=1) != [0]
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())), "the command to die")


def test_a_run_through_slurm_equals_a_serial_one(project, slurm):
    toy = project(diamond(left="sleep 0.3"))
    serial = toy.twin()
    serial.serial()
    toy.run(jobs=2, executor="slurm", gpus_per_stage=1)
    assert toy.lock() == serial.lock()
    submitted = (slurm / "submitted").read_text().split("\n")
    assert len(submitted) == 5
    assert all(line.startswith("sensorium-") and line.endswith(" 1") for line in submitted[:-1])


def test_a_job_that_slurm_refuses_is_a_failed_stage(project, slurm):
    (slurm / "refuse").touch()
    toy = project(diamond())
    with pytest.raises(PipelineError, match="1 of 4 stages failed, 3 were not run: first"):
        toy.run(executor="slurm", retries=0)
    assert "Invalid partition name" in toy.log("first")
    (slurm / "refuse").unlink()
    toy.run(executor="slurm")
    assert toy.clean()


def test_a_job_left_by_a_killed_run_never_meets_its_successor(project, slurm, processes):
    linger = "trap 'sleep 0.5; rmdir busy; exit 1' TERM; mkdir busy; touch started; while :; do sleep 0.1; done"
    toy = project(diamond(left=f"if [ ! -e started ]; then {linger}; fi; [ ! -e busy ]"))
    run = toy.start("-j", "2", "--executor", "slurm", "--retries", "0")
    processes.append(run)
    wait_until(toy.path("started").exists)
    submitter = next(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _submits(p, toy.root, linger))
    os.kill(submitter, signal.SIGKILL)  # the process that would have cancelled the job
    assert run.wait() == 1
    assert toy.path("busy").exists()
    toy.run(jobs=2, executor="slurm", retries=0)
    assert not toy.path("busy").exists()
    assert toy.clean()


def _submits(process, root, command):
    """Whether it is what DVC of this project takes for its shell, running this command."""
    try:
        words = (process / "cmdline").read_text().split("\0")
        here = (process / "cwd").readlink() == root
    except OSError:
        return False
    return here and shell.__name__ in words and any(command in word for word in words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor": "slurm"}, "no sbatch on this machine"),
        ({"executor": "slurm", "gpus": "0"}, "leases the cluster's GPUs itself"),
        ({"gpus_per_stage": 1}, "--gpus-per-stage: on this machine GPUs are leased by id"),
    ],
)
def test_an_executor_that_cannot_work_is_refused(project, monkeypatch, options, words):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    toy = project(diamond())
    with pytest.raises(ConfigError, match=words):
        toy.run(**options)
    assert not toy.path("one").exists()
