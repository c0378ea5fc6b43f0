"""Equal commands in parallel: those of a sweep, for one."""

import os
import signal
import threading

import pytest
from toy_project import wait_until

from sensorium.scheduler.executors import Worker, run_workers
from sensorium.scheduler.local import run_here


@pytest.fixture
def run(tmp_path):
    """Run commands, each with a log of its own."""

    def start(*commands, on_tick=lambda: None):
        started = [
            Worker(command, {**os.environ, "NUMBER": str(number)}, tmp_path / f"{number}.log")
            for number, command in enumerate(commands)
        ]
        return run_workers(run_here, started, tmp_path, on_tick)

    return start


def test_commands_run_in_parallel_and_return_their_exit_codes(run, tmp_path):
    ticks = []
    meet = "touch here.$NUMBER; until [ -e here.0 ] && [ -e here.1 ]; do sleep 0.05; done; echo met; exit $NUMBER"
    assert run(meet, meet, on_tick=lambda: ticks.append(1)) == [0, 1]
    assert (tmp_path / "0.log").read_text() == "met\n"
    assert ticks


def test_a_signal_ends_all_of_them_after_they_have_saved_their_state(run, tmp_path):
    linger = "trap 'touch saved.$NUMBER; exit 143' TERM; touch here.$NUMBER; while :; do sleep 0.1; done"

    def interrupt():
        wait_until(lambda: len(list(tmp_path.glob("here.*"))) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(linger, linger)
    thread.join()
    assert len(list(tmp_path.glob("saved.*"))) == 2
    assert signal.getsignal(signal.SIGTERM) == before
