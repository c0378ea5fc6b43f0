"""The trials of a sweep, one after another, by this process; and how a sweep looks from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import fmean
from types import TracebackType
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sensorium import tracking
from sensorium.config import Config
from sensorium.errors import ConfigError, UntrainableError
from sensorium.files import digest_json
from sensorium.paths import Paths
from sensorium.stages import train
from sensorium.sweep.results import row
from sensorium.sweep.space import apply, settings_of
from sensorium.sweep.study import Plan, Sweep
from sensorium.tracking import TrainingRun
from sensorium.tracking.sweeps import SweepPlace
from sensorium.training.history import Row


@dataclass(frozen=True)
class Work:
    """What all trials of a sweep have in common."""

    config: Config
    paths: Paths
    experiment: str
    folds: Sequence[int]
    source: str
    """File of the space, for messages."""
    plan: Plan


def work(sweep: Sweep, common: Work, console: Console) -> None:
    """Train trials until none is left that nobody works on.

    Raises:
        TrainingError: a training cannot go on, or was asked to stop; its trial goes on later.
    """
    while True:
        with sweep.claimed() as trial:
            if trial is None:
                return
            console.print(f"trial {trial.number}: {_settings(trial)}")
            _train(sweep, common, trial)
        console.print(escape(_sentence(sweep, sweep.trials()[trial.number])))


def _train(sweep: Sweep, common: Work, trial: FrozenTrial) -> None:
    """Train the folds that are not trained yet, and end the trial."""
    chosen = settings_of(sweep.plan.space, trial.params)
    try:
        config = apply(common.config, common.experiment, chosen, common.source)
    except ConfigError as fault:  # a combination that none of those tried out before has shown
        sweep.give_up(trial.number, fault.problem)
        return
    for fold in common.folds:
        if str(fold) in sweep.folds(trial.number):
            continue
        pruner = TrialPruner(sweep.plan, trial.number, tuple(sweep.folds(trial.number).values()), len(common.folds))
        try:
            correlation = train.try_out(
                config,
                common.paths,
                common.experiment,
                fold,
                _training(sweep, common, config, trial.number, fold, pruner),
            )
        except UntrainableError as fault:
            sweep.give_up(trial.number, fault.problem)
            return
        if correlation is None:
            return
        sweep.note_fold(trial.number, fold, correlation)
    sweep.complete(trial.number)


def _training(sweep: Sweep, common: Work, config: Config, number: int, fold: int, pruner: "TrialPruner") -> train.Trial:
    title = f"trial {number}" if len(common.folds) == 1 else f"trial {number}, fold {fold}"
    place = SweepPlace(sweep.plan.name, digest_json(dict(sweep.plan.identity)), number, title)
    recorder = partial(_recorder, config, common.paths, common.experiment, fold, place)
    return train.Trial(title, sweep.folder_of(number), pruner, recorder)


def _recorder(
    config: Config, paths: Paths, experiment: str, fold: int, place: SweepPlace, fingerprint: str
) -> TrainingRun:
    own = digest_json([fingerprint, place.fingerprint, place.trial])  # two trials may have the same settings
    return tracking.start_training_run(config, paths, experiment, fold, own, place)


@dataclass(frozen=True)
class TrialPruner:
    """Reports a trial's epochs to the study, and asks whether to end it early."""

    plan: Plan
    number: int
    before: tuple[float, ...]
    """Validation correlations of the folds that are trained."""
    folds: int
    """How many a trial trains."""

    @cached_property
    def _sweep(self) -> Sweep:
        return Sweep(self.plan)

    def __call__(self, rows: Sequence[Row], *, over: bool) -> bool:
        """See `loop.Pruner`: an epoch counts as the mean of the trained folds and of the fold at that epoch."""
        first = len(self.before) * (self.plan.epochs // self.folds)
        reached = {first + int(row["epoch"]): fmean([*self.before, row["val_correlation"]]) for row in rows}
        return self._sweep.report(self.number, reached, over=over)


# -- what the user sees ------------------------------------------------------------------------------


def number(value: Any) -> str:
    """A parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(trial: FrozenTrial) -> str:
    return ", ".join(f"{key} {number(value)}" for key, value in trial.params.items())


def _sentence(sweep: Sweep, trial: FrozenTrial) -> str:
    told: Mapping[str, Any] = row(trial)
    reached = "" if trial.value is None else f", validation correlation {trial.value:.4f}"
    reason = f": {told['reason']}" if "reason" in told else ""
    ended = [known for known in sweep.trials() if known.state == TrialState.COMPLETE]
    best = max(ended, key=lambda known: known.values[0], default=None)
    standing = "" if best is None else f" (best {best.value:.4f}, trial {best.number})"
    return f"trial {trial.number}: {told['state']}{reached}{reason}{standing}"


class Watch:
    """A bar of the trials that are over, and a line for each."""

    def __init__(self, sweep: Sweep, console: Console) -> None:
        """Prepare.

        Args:
            sweep: that other processes work on.
            console: where to.
        """
        self._sweep, self._console = sweep, console
        self._told: set[int] = {trial.number for trial in sweep.trials() if trial.state.is_finished()}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(escape(sweep.plan.name), total=sweep.plan.size, completed=len(self._told))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def look(self) -> None:
        """Show what is new."""
        for trial in self._sweep.trials():
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                self._console.print(escape(_sentence(self._sweep, trial)))
        self._bar.update(self._task, completed=len(self._told))
