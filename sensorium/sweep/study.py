"""A sweep as a study of Optuna's that any number of processes work on, one trial each at a time.

What a trial tries depends on the study's seed, its own number and the trials that are over when it begins;
a process that joins, dies or comes back changes none of these. So one process gives the same trials whether it
was killed or not.
"""

import fcntl
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from sensorium.errors import ConfigError
from sensorium.seeding import generator
from sensorium.sweep.journal import Journal
from sensorium.sweep.space import Space

REASON = "reason"
"""Attribute of a trial that ended before its time: why."""
_IDENTITY = "identity"
_FOLDS = "folds"


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is."""

    name: str
    folder: Path
    """Where its study and the states of its trials lie."""
    space: Space
    seed: int
    trials: int
    """Number of trials; a grid may have fewer."""
    warmup: int
    """Epochs after which trials are compared."""
    epochs: int
    """Largest number of epochs of a trial, over all of its folds."""
    identity: Mapping[str, Any]
    """What all trials have in common, as a JSON tree; another one needs another sweep."""

    @property
    def size(self) -> int:
        """Number of trials that there can be."""
        if self.space.sampler != "grid":
            return self.trials
        return min(self.trials, math.prod(len(values) for values in self.space.grid().values()))

    def sampler(self, number: int) -> BaseSampler:
        """What chooses the settings of a trial."""
        startup = self.space.startup_trials
        if self.space.sampler == "grid":
            return GridSampler(self.space.grid(), seed=self._draw("grid", 0))
        seed = self._draw("trial", number)
        match self.space.sampler:
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=startup)
            case "cmaes":
                return CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
            case "random":
                return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=startup)

    def _draw(self, purpose: str, number: int) -> int:
        return int(generator(self.seed, f"sweep {purpose}", number).integers(2**32))

    def pruner(self) -> BasePruner:
        """What ends trials early."""
        match self.space.pruner:
            case "median":
                return MedianPruner(n_startup_trials=self.space.startup_trials, n_warmup_steps=self.warmup)
            case "hyperband":
                return HyperbandPruner(min_resource=1 + self.warmup, max_resource=self.epochs)
        return NopPruner()


class Sweep:
    """A study on disk, made when missing."""

    def __init__(self, plan: SweepPlan) -> None:
        """Open it.

        Raises:
            ConfigError: a sweep of this name was begun with something else.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan = plan
        self._journal = Journal(plan.folder / "study.jsonl")
        storage = JournalStorage(self._journal)
        idle = RandomSampler(seed=0)  # it never draws: each trial is given a sampler of its own
        options: dict[str, Any] = {
            "study_name": plan.name,
            "storage": storage,
            "pruner": plan.pruner(),
            "sampler": idle,
        }
        with self._journal.together():
            if storage.get_all_studies():
                self.study = optuna.load_study(**options)
            else:
                self.study = optuna.create_study(**options, direction="maximize")
                self.study.set_user_attr(_IDENTITY, dict(plan.identity))
        begun = self.study.user_attrs[_IDENTITY]
        now = json.loads(json.dumps(dict(self.plan.identity)))
        differing = sorted(key for key in begun.keys() | now.keys() if begun.get(key) != now.get(key))
        if differing:
            raise ConfigError(
                f"sweep {self.plan.name}: was begun with another {', '.join(differing)}.",
                f"Give this one a --name of its own, or remove {self.plan.folder} to begin anew.",
            )

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def is_over(self) -> bool:
        """Whether all trials are over."""
        trials = self.trials()
        return len(trials) >= self.plan.size and all(trial.state.is_finished() for trial in trials)

    @contextmanager
    def locked_trial(self) -> Iterator[FrozenTrial | None]:
        """Work on a trial alone: one that a killed process left, or the next; None where nothing is left to do."""
        with ExitStack() as held:
            yield self._next_trial(held)

    def _next_trial(self, held: ExitStack) -> FrozenTrial | None:
        with self._journal.together():
            for trial in self.trials():
                if trial.state == TrialState.RUNNING and self._lock(trial.number, held):
                    return trial
            number = len(self.trials())
            if number >= self.plan.size:
                return None
            idle, self.study.sampler = self.study.sampler, self.plan.sampler(number)
            try:
                self.study.ask(self.plan.space.distributions())
            finally:
                self.study.sampler = idle
            assert self._lock(number, held), "nobody else knows of it yet"
            return self.trials()[number]

    def _lock(self, number: int, held: ExitStack) -> bool:
        """Whether nobody else works on a trial; a child of ours that outlives us does not count, unlike in `flock`."""
        path = self.folder_of(number).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = held.enter_context(path.open("a"))
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def folder_of(self, number: int) -> Path:
        """Where the states of a trial lie."""
        return self.plan.folder / "trials" / str(number)

    def report(self, number: int, correlations: Mapping[int, float], *, over: bool) -> bool:
        """Note what a trial has reached; where it is not worth going on with, it is over.

        Args:
            number: of the trial.
            correlations: validation correlation by epoch, counted over all folds.
            over: whether the training has ended anyway.

        Returns:
            Whether the pruner has ended it.
        """
        with self._journal.together():
            trial = self._trial(number)
            known = self.trials()[number].intermediate_values
            for epoch, correlation in correlations.items():
                if epoch not in known:
                    trial.report(correlation, epoch)
            if over or not trial.should_prune():
                return False
            self.study.tell(number, state=TrialState.PRUNED)
        self._tidy(number)
        return True

    def record_fold(self, number: int, fold: int, correlation: float) -> None:
        """Note the validation correlation of a trained fold."""
        with self._journal.together():
            self._trial(number).set_user_attr(_FOLDS, {**self.folds(number), str(fold): correlation})

    def folds(self, number: int) -> dict[str, float]:
        """Validation correlation of a trial's trained folds, by fold."""
        return dict(self.trials()[number].user_attrs.get(_FOLDS, {}))

    def complete(self, number: int) -> None:
        """End a trial whose folds are all trained: its value is their mean."""
        correlations = self.folds(number).values()
        self.study.tell(number, sum(correlations) / len(correlations))
        self._tidy(number)

    def give_up(self, number: int, reason: str) -> None:
        """End a trial whose settings cannot be trained: as bad as one that was pruned, for the sampler."""
        with self._journal.together():
            self._trial(number).set_user_attr(REASON, reason)
            self.study.tell(number, state=TrialState.PRUNED)
        self._tidy(number)

    def tidy(self) -> None:
        """Remove what killed processes left of trials, once all are over."""
        with self._journal.together():
            if self.is_over():
                shutil.rmtree(self.plan.folder / "trials", ignore_errors=True)

    def _trial(self, number: int) -> optuna.Trial:
        """A trial to write to."""
        return optuna.Trial(self.study, self.trials()[number]._trial_id)  # noqa: SLF001 - Optuna has no other way

    def _tidy(self, number: int) -> None:
        shutil.rmtree(self.folder_of(number), ignore_errors=True)
