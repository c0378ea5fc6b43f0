"""Sweeps in processes of their own, that can be killed. Imported by those processes too."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from unittest.mock import patch

from optuna.trial import TrialState

from sensorium.sweep.space import Space
from sensorium.sweep.study import Sweep, SweepPlan

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sensorium.commands.sweep"])

EPOCHS = 6
SPACE = {
    "startup_trials": 2,
    "parameters": {
        "training.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "training.ema_decay": {"choices": [0.9, 0.99]},
        "model.expansion": {"low": 2, "high": 5},
    },
}


def make_plan(folder: Path, trials: int = 8, **space: object) -> SweepPlan:
    """A plan whose trials `pretend` works on."""
    chosen = Space.model_validate({**SPACE, **space})
    return SweepPlan("toy", folder, chosen, 7, trials, 1, EPOCHS, {"settings": "these"})


def kill_at_flush(number: int) -> None:
    """Make this process kill itself just before its n-th flush to disk."""
    seen, flush = 0, os.fsync

    def counted(descriptor):
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = counted


def pretend(plan: SweepPlan, kill: int | None = None, pause: float = 0.0) -> None:
    """Work on a sweep without any training: a trial's curve is a function of its parameters."""
    if kill is not None:
        kill_at_flush(kill)
    sweep = Sweep(plan)
    while True:
        with sweep.locked_trial() as trial:
            if trial is None:
                return
            with (plan.folder / "begun.txt").open("a") as stream:
                stream.write(f"{trial.number}\n")
            _pretend_trial(sweep, trial, pause * (1 + trial.number % 3))


def _pretend_trial(sweep, trial, pause):
    if 0 not in trial.user_attrs.get("folds", {}):
        peak = trial.params["model.expansion"] * trial.params["training.ema_decay"]
        for epoch in range(EPOCHS):
            time.sleep(pause)
            over = epoch == EPOCHS - 1
            if sweep.report(trial.number, {e: peak * (e + 1) for e in range(epoch + 1)}, over=over):
                return
        sweep.record_fold(trial.number, 0, peak * EPOCHS)
    sweep.complete(trial.number)


def search(root: Path, kill: int | None = None, **options: object) -> None:
    """Run the verb in this process, without MLflow."""
    from sensorium import tracking
    from sensorium.callbacks.recorder import Recorder
    from sensorium.commands import sweep as stage
    from sensorium.config import load
    from sensorium.paths import Paths

    if kill is not None:
        kill_at_flush(kill)
    given = {"experiment": "true_batch_001", "space": root / "space.yaml", "trials": 4, "folds": (0,), **options}
    with patch.object(tracking, "start_training_run", lambda *_: Recorder()):
        stage.search(load(root / "params.yaml"), Paths(root), stage.Options(**given))


def start(function, *arguments, **options) -> multiprocessing.Process:
    """Start one of the above in a process of its own; its standard error goes to stderr.txt beside the sweep."""
    process = CONTEXT.Process(target=_child, args=(function, arguments, options))
    process.start()
    return process


def _child(function, arguments, options):
    where = arguments[0] if isinstance(arguments[0], Path) else arguments[0].folder
    where.mkdir(parents=True, exist_ok=True)
    sys.stderr = (where / "stderr.txt").open("a", buffering=1)
    function(*arguments, **options)


def facts(sweep: Sweep) -> list[tuple]:
    """All that a sweep found; not when."""
    return [
        (t.number, t.state, t.params, t.value, t.intermediate_values, t.user_attrs, t.system_attrs)
        for t in sweep.trials()
    ]


def count(sweep: Sweep, state: TrialState) -> int:
    """Trials that ended so."""
    return sum(trial.state == state for trial in sweep.trials())
