"""The trials of a sweep, one after another, by this process; and what the user sees of a sweep."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sensorium import tracking
from sensorium.config import Config
from sensorium.errors import ConfigError, UntrainableError
from sensorium.files import digest_json
from sensorium.paths import Paths
from sensorium.stages import train
from sensorium.sweep.results import row
from sensorium.sweep.space import apply, settings_of
from sensorium.sweep.study import Sweep, SweepPlan
from sensorium.tracking import TrainingRun
from sensorium.tracking.sweeps import SweepPlace
from sensorium.training.history import Row


@dataclass(frozen=True)
class Options:
    """The options of `sensorium sweep`; `worker` names a process that another one started."""

    experiment: str
    space: Path
    trials: int
    folds: tuple[int, ...]
    name: str | None = None
    best: str | None = None
    jobs: int | None = None
    gpus: str | None = None
    gpus_per_trial: int = 0
    executor: str = "local"
    worker: str | None = None
    as_json: bool = False

    @property
    def title(self) -> str:
        """Name of the sweep."""
        return self.name or f"{self.experiment}-{self.space.stem}"


def work_on(sweep: Sweep, config: Config, paths: Paths, options: Options, console: Console) -> None:
    """Train trials until none is left that nobody works on.

    Raises:
        TrainingError: a training cannot go on, or was asked to stop; its trial goes on later.
    """
    while True:
        with sweep.locked_trial() as trial:
            if trial is None:
                return
            settings = ", ".join(f"{key} {_text(value)}" for key, value in trial.params.items())
            console.print(f"trial {trial.number}: {settings}")
            _train(sweep, config, paths, options, trial)
        console.print(escape(_sentence(sweep, sweep.trials()[trial.number])))


def _train(sweep: Sweep, config: Config, paths: Paths, options: Options, trial: FrozenTrial) -> None:
    """Train the folds that are not trained yet, and end the trial."""
    try:
        chosen = settings_of(sweep.plan.space, trial.params)
        config = apply(config, options.experiment, chosen, str(options.space))
    except ConfigError as fault:  # a combination that none of those tried out before has shown
        sweep.give_up(trial.number, fault.problem)
        return
    for fold in options.folds:
        if str(fold) in sweep.folds(trial.number):
            continue
        training = _training(sweep, config, paths, options, trial.number, fold)
        try:
            correlation = train.try_out(config, paths, options.experiment, fold, training)
        except UntrainableError as fault:
            sweep.give_up(trial.number, fault.problem)
            return
        if correlation is None:
            return
        sweep.record_fold(trial.number, fold, correlation)
    sweep.complete(trial.number)


def _training(sweep: Sweep, config: Config, paths: Paths, options: Options, number: int, fold: int) -> train.Trial:
    title = f"trial {number}" if len(options.folds) == 1 else f"trial {number}, fold {fold}"
    place = SweepPlace(sweep.plan.name, digest_json(dict(sweep.plan.identity)), number, title)
    pruner = TrialPruner(sweep.plan, number, tuple(sweep.folds(number).values()), len(options.folds))
    recorder = partial(_recorder, config, paths, options.experiment, fold, place)
    return train.Trial(title, sweep.folder_of(number), recorder, pruner)


def _recorder(
    config: Config, paths: Paths, experiment: str, fold: int, place: SweepPlace, fingerprint: str
) -> TrainingRun:
    own = digest_json([fingerprint, place.fingerprint, place.trial])  # two trials may have the same settings
    return tracking.start_training_run(config, paths, experiment, fold, own, place)


@dataclass(frozen=True)
class TrialPruner:
    """Reports a trial's epochs to the study, and asks whether to end it early."""

    plan: SweepPlan
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


def _text(value: Any) -> str:
    """A parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sentence(sweep: Sweep, trial: FrozenTrial) -> str:
    result = row(trial)
    reached = "" if trial.value is None else f", validation correlation {trial.value:.4f}"
    reason = f": {result['reason']}" if "reason" in result else ""
    ended = [known for known in sweep.trials() if known.state == TrialState.COMPLETE]
    best = max(ended, key=lambda known: known.values[0], default=None)
    standing = "" if best is None else f" (best {best.value:.4f}, trial {best.number})"
    return f"trial {trial.number}: {result['state']}{reached}{reason}{standing}"


@contextmanager
def show_progress(sweep: Sweep, console: Console) -> Iterator[Callable[[], None]]:
    """Show a bar of the finished trials of a sweep that other processes work on, and a line for each new one.

    Yields:
        What brings bar and lines up to date.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = {trial.number for trial in sweep.trials() if trial.state.is_finished()}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(sweep.plan.name), total=sweep.plan.size, completed=len(shown))

        def update() -> None:
            for trial in sweep.trials():
                if trial.state.is_finished() and trial.number not in shown:
                    shown.add(trial.number)
                    console.print(escape(_sentence(sweep, trial)))
            bar.update(task, completed=len(shown))

        yield update


def print_results(sweep: Sweep, importance: Mapping[str, float], folder: Path, console: Console) -> None:
    """Print one row per trial, the importance of the parameters, and the best trial."""
    best = sweep.study.best_trial
    table = Table(title=f"Sweep {sweep.plan.name}", title_justify="left")
    names = [key.rpartition(".")[2] for key in sweep.plan.space.parameters]
    for heading in ("trial", "state", "epochs", "correlation", *names):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    for trial in sweep.trials():
        state, epochs = (str(row(trial)[key]) for key in ("state", "epochs"))
        value = "" if trial.value is None else f"{trial.value:.4f}"
        chosen = [_text(trial.params[key]) for key in sweep.plan.space.parameters]
        style = "bold" if trial.number == best.number else None
        table.add_row(str(trial.number), state, epochs, value, *chosen, style=style)
    Console(highlight=False).print(table)
    shares = ", ".join(f"{key} {share:.2f}" for key, share in importance.items())
    console.print(f"importance: {shares}" if shares else "importance: too few trials were trained to their end.")
    console.print(f"best: trial {best.number}, validation correlation {best.value:.4f}; {folder}")
