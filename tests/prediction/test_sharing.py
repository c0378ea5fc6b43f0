"""Several processes on one prediction: the same bytes as one, whoever dies."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
import yaml
from prediction_runs import TEACHER, TIER, contents, kill_after

from sensorium.errors import PredictionError
from sensorium.files import PARTIAL_SUFFIX, waiting_lock
from sensorium.inference import work_queue
from sensorium.model import checkpoint
from sensorium.stages import predict

HANGS, SLOW = "hangs", "slow"

_SCRIPT = textwrap.dedent(
    """
    import sys, time
    from sensorium.cli import main
    from sensorium.inference import runner

    original, seconds = runner._Worker.predict, 1000 if sys.argv[1] == "hangs" else 0.05

    def predict(worker, group):
        print(*group, flush=True)
        time.sleep(seconds)
        return original(worker, group)

    runner._Worker.predict = predict
    sys.argv = ["sensorium", "predict", "-e", sys.argv[2], "-s", sys.argv[3]]
    main()
    """
)


@pytest.fixture
def config(tiny_config):
    """Small batches: a group a trial."""
    return tiny_config.model_copy(update={"prediction": tiny_config.prediction.model_copy(update={"batch_size": 16})})


@pytest.fixture
def alone(trained, config):
    """What one process predicts."""
    predict.run(config, trained, TEACHER, TIER)
    folder = trained.predictions(TEACHER, TIER)
    found = contents(folder)
    shutil.rmtree(folder)
    return found


@pytest.fixture
def command(trained, config):
    """A function that starts `sensorium predict` in a process that is slow, or hangs in its first group."""
    (trained.root / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    started = []

    def start(manner):
        line = [sys.executable, "-c", _SCRIPT, manner, TEACHER, TIER]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(line, cwd=trained.root, env=environment, text=True, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def unfinished(trained):
    return [path.name for path in (trained.state / "predict" / TEACHER / TIER).glob("*/")]


def test_a_process_joins_and_takes_over_what_a_killed_one_had_begun(alone, trained, command):
    hanging, joined = command(HANGS), command(SLOW)
    begun = hanging.stdout.readline()
    trials = [path for path in alone if path.endswith(".npy")]
    others = {joined.stdout.readline() for _ in trials[1:]}
    assert len(others) == len(trials) - 1
    assert begun not in others
    time.sleep(0.5)
    assert joined.poll() is None  # it waits for the group that is taken
    hanging.kill()
    assert joined.stdout.readlines() == [begun]
    assert joined.wait(60) == 0
    assert contents(trained.predictions(TEACHER, TIER)) == alone
    assert not unfinished(trained)


def shared(config, processes=2):
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"devices": processes})})


def kill_children(signalled):
    """Kill a process of ours as soon as it is there."""
    while not signalled:
        time.sleep(0.01)
        for child in multiprocessing.active_children()[:1]:
            os.kill(child.pid, signal.SIGKILL)
            signalled.append(child.pid)


@pytest.mark.slow
def test_the_processes_of_one_command_go_on_without_one_that_died(alone, trained, config):
    signalled = []
    killer = threading.Thread(target=kill_children, args=(signalled,))
    killer.start()
    predict.run(shared(config), trained, TEACHER, TIER)
    killer.join()
    assert len(signalled) == 1
    assert contents(trained.predictions(TEACHER, TIER)) == alone


@pytest.mark.slow
def test_processes_that_all_die_are_told_and_leave_what_they_did(alone, trained, config, monkeypatch):
    monkeypatch.setattr("sensorium.inference.runner._run_process", _die)
    with pytest.raises(PredictionError, match=r"all processes ended .* \(exit codes -9, -9\)") as caught:
        predict.run(shared(config), trained, TEACHER, TIER)
    assert "goes on where it was" in str(caught.value)
    assert not trained.predictions(TEACHER, TIER).exists()


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_fault_in_one_process_ends_all_with_its_message(trained, config):
    folder = trained.fold(TEACHER, 0)
    model = checkpoint.load(folder)
    torch.nn.init.constant_(model.model.readouts[0].linear.bias, torch.nan)
    checkpoint.save(folder, model.model, model.info)
    with pytest.raises(PredictionError, match="values are NaN or infinite"):
        predict.run(shared(config), trained, TEACHER, TIER)
    assert not trained.predictions(TEACHER, TIER).exists()
    assert not multiprocessing.active_children()


def place(trained, ending, content=None):
    """A file of the work in progress."""
    root = trained.state / "predict" / TEACHER / TIER
    return root / f"{content or min(path.stem for path in root.glob('*.lock'))}.{ending}"


def test_other_inputs_at_the_same_time_are_refused(trained, config):
    theirs = place(trained, "lock", "another")
    with waiting_lock(theirs, shared=True):
        theirs.with_suffix("").mkdir()
        with pytest.raises(PredictionError, match="another process is predicting it with other weights"):
            predict.run(config, trained, TEACHER, TIER)
        assert theirs.with_suffix("").is_dir()
    predict.run(config, trained, TEACHER, TIER)
    assert not theirs.with_suffix("").exists()


def test_one_who_joins_at_the_end_finds_it_done(alone, trained, config, monkeypatch):
    with waiting_lock(place(trained, "lock"), shared=True):
        predict.run(config, trained, TEACHER, TIER)
        predicted = kill_after(monkeypatch, 1000)
        predict.run(config, trained, TEACHER, TIER)
    assert predicted == []
    assert contents(trained.predictions(TEACHER, TIER)) == alone


def test_a_publisher_that_died_is_replaced(alone, trained, config, monkeypatch):
    class DiedError(BaseException):
        pass

    def die(*_):
        raise DiedError

    with waiting_lock(place(trained, "lock"), shared=True):
        with monkeypatch.context() as patch:
            patch.setattr(work_queue, "publish_predictions", die)
            with pytest.raises(DiedError):
                predict.run(config, trained, TEACHER, TIER)
        assert place(trained, "closed").exists()
        moved = max(next(path for path in unfinished_folders(trained)).rglob("*.npy"))
        moved.unlink()
        folder = trained.predictions(TEACHER, TIER)
        folder.with_name(f".{folder.name}.dead{PARTIAL_SUFFIX}").mkdir(parents=True)
        predict.run(config, trained, TEACHER, TIER)
    assert contents(folder) == alone
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def unfinished_folders(trained):
    return [path for path in (trained.state / "predict" / TEACHER / TIER).glob("*/") if not path.suffix]


def test_damaged_predictions_are_made_anew(alone, trained, config):
    predict.run(config, trained, TEACHER, TIER)
    path = max(trained.predictions(TEACHER, TIER).rglob("*.npy"))
    np.save(path, np.zeros(3))
    predict.run(config, trained, TEACHER, TIER)
    assert contents(trained.predictions(TEACHER, TIER)) == alone
