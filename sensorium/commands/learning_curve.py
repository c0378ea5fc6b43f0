"""`sensorium learning-curve`: held-out correlation against the number of training trials, with and without a start."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t

from sensorium import tracking
from sensorium.commands.options import Experiment, select_folds
from sensorium.commands.options import Folds as FoldsOption
from sensorium.config import Config
from sensorium.data.folds import UNLABELLED, Folds
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, TrainingError
from sensorium.files import atomic_file, digest_json, exclusive_lock, read_json, write_json, write_text
from sensorium.lineage import provenance
from sensorium.model import checkpoint
from sensorium.paths import Paths
from sensorium.report.figures import STYLE
from sensorium.stages import train
from sensorium.sweep.space import apply
from sensorium.tracking import TrainingRun
from sensorium.tracking.sweeps import SweepPlace
from sensorium.training.assembly import model_info
from sensorium.training.transfer import known_mice, start_digest

SCRATCH = "scratch"
"""Training that starts from random weights."""
_COLORS = {SCRATCH: "#D55E00"}
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Point:
    """One training of the curve."""

    start: str
    """`SCRATCH`, or the experiment whose weights it starts from."""
    limit: int | None
    """Most training trials per mouse; None takes all."""
    fold: int

    @property
    def name(self) -> str:
        """What the user sees, and the key of its result."""
        return f"{self.start}, {'all' if self.limit is None else self.limit} trials, fold {self.fold}"


def run(
    config: Config,
    paths: Paths,
    experiment: Experiment,
    trials: Annotated[
        str, typer.Option("--trials", help="Numbers of training trials per mouse, joined by commas: 25,50,100,all.")
    ],
    folds: FoldsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Train an experiment on ever more trials, and score each training on the held-out trials.

    An experiment that starts from another one is trained twice, from there and from random weights. A killed command
    continues where it was. Table and figure are written to reports/learning-curves/EXPERIMENT/.

    Example: `sensorium learning-curve -e transfer_001 --trials 25,50,100,all`.

    Raises:
        ConfigError: a bad option, or a start that knows the mice already.
        DataError: stores or folds are missing.
        CheckpointError: the fold to start from is missing.
        TrainingError: a training cannot continue, or was asked to stop.
    """
    limits, numbers = parse_trials(trials), select_folds(config, folds)
    config.experiment(experiment)
    start = config.starts[experiment]
    _refuse_known_mice(config, paths, experiment, numbers)
    points = [
        Point(source, limit, fold)
        for limit in limits
        for source in ([start] if start else []) + [SCRATCH]
        for fold in numbers
    ]
    known = provenance(config, paths, experiment, numbers[0], None)
    known["fold"] = {str(fold): start_digest(config, paths, experiment, fold) for fold in numbers}
    identity = digest_json({**known, "points": [point.name for point in points]})
    folder = paths.state / "learning-curves" / experiment / identity[:12]
    busy = TrainingError(f"learning curve of {experiment}: another process is at work on it.", "Wait for it.")
    with exclusive_lock(paths.lock(f"learning-curve-{experiment}"), busy):
        place = SweepPlace(f"learning-curve-{experiment}", identity)
        scores = _train_all(config, paths, experiment, points, folder, place)
        table = summarise(points, scores, _trial_counts(config, paths, points))
        output = paths.learning_curve(experiment)
        write_text(output / "points.csv", table.to_csv(index=False, lineterminator="\n"))
        with atomic_file(output / "learning-curve.png") as unfinished:
            figure(table).savefig(unfinished, format="png")
        _record(config, paths, experiment, numbers[0], place, table, output)
        shutil.rmtree(folder)
    if as_json:
        print(json.dumps({"experiment": experiment, "points": table.to_dict("records")}, indent=2))  # noqa: T201
    else:
        _print(experiment, table, output)


def parse_trials(text: str) -> list[int | None]:
    """`25,50,all` as numbers in rising order, None for all.

    Raises:
        ConfigError: not such a list.
    """
    limits: set[int | None] = set()
    for part in (part.strip() for part in text.split(",")):
        if part != "all" and not re.fullmatch(r"[1-9]\d*", part):
            raise ConfigError(f"--trials {part!r}: not a number of trials.", "For example: --trials 25,50,100,all")
        limits.add(None if part == "all" else int(part))
    return sorted(limits, key=lambda limit: (limit is None, limit or 0))


def _refuse_known_mice(config: Config, paths: Paths, experiment: str, folds: Sequence[int]) -> None:
    """Refuse a start that was trained on the very mice: it has seen more of their trials than the curve counts."""
    settings = config.experiment(experiment)
    if settings.start is None:
        return
    stores = [MouseStore(paths.store(mouse)) for mouse in config.dataset.mice]
    for fold in folds:
        start_digest(config, paths, experiment, fold)
        folder = paths.fold(settings.start.experiment, fold)
        known = known_mice(checkpoint.read_info(folder), model_info(config, paths, experiment, fold, stores))
        if known:
            raise ConfigError(
                f"learning curve of {experiment}: {folder} was trained on all trials of {', '.join(known)}, so a "
                "training on few of them would not show what few trials are worth.",
                "Take mice that the start does not know, in a project of their own: docs/how-to/transfer.md.",
            )


def _train_all(
    config: Config, paths: Paths, experiment: str, points: Sequence[Point], folder: Path, place: SweepPlace
) -> dict[str, float]:
    """Validation correlation by name of the point; those on record are not trained again."""
    record = folder / "scores.json"
    remedy = f"Remove the folder {folder}; the finished trainings are then repeated."
    scores: dict[str, float] = read_json(record, TrainingError, remedy) if record.exists() else {}
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for number, point in enumerate(points):
        if point.name not in scores:
            console.print(f"training {number + 1} of {len(points)}: {point.name}")
            chosen: dict[str, Any] = {"training.trials": point.limit} | (
                {"start": None} if point.start == SCRATCH else {}
            )
            own = apply(config, experiment, chosen, f"{point.name}")
            recorder = partial(_recorder, own, paths, experiment, point, number, place)
            trial = train.Trial(point.name, folder / "checkpoints", recorder)
            correlation = train.try_out(own, paths, experiment, point.fold, trial)
            assert correlation is not None, "nothing prunes it"
            scores[point.name] = correlation
            write_json(record, scores)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return scores


def _recorder(
    config: Config, paths: Paths, experiment: str, point: Point, number: int, place: SweepPlace, fingerprint: str
) -> TrainingRun:
    own = digest_json([fingerprint, place.fingerprint])
    child = SweepPlace(place.sweep, place.fingerprint, number, point.name)
    return tracking.start_training_run(config, paths, experiment, point.fold, own, child)


def _trial_counts(config: Config, paths: Paths, points: Sequence[Point]) -> dict[Point, float]:
    """Training trials per mouse of each point, the mean over mice."""
    folds = Folds.load(paths.folds)
    counts = {}
    for point in points:
        own = []
        for mouse in config.dataset.mice:
            assigned = folds.of(mouse)
            available = int(((assigned != point.fold) & (assigned != UNLABELLED)).sum())
            own.append(available if point.limit is None else min(point.limit, available))
        counts[point] = float(np.mean(own))
    return counts


def summarise(points: Sequence[Point], scores: dict[str, float], counts: dict[Point, float]) -> pd.DataFrame:
    """One row per start and number of trials.

    Returns:
        Columns `start`, `trials` (per mouse, mean over mice and folds), `folds`, `correlation` (mean over folds),
        `low` and `high` (95 % confidence interval of that mean by Student's t over folds; missing for a single fold).
    """
    rows = pd.DataFrame(
        {
            "start": [point.start for point in points],
            "limit": [np.inf if point.limit is None else point.limit for point in points],
            "trials": [counts[point] for point in points],
            "correlation": [scores[point.name] for point in points],
        }
    )
    return pd.DataFrame(list(_summaries(rows)))


def _summaries(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for (start, _), own in rows.groupby(["start", "limit"], sort=False):
        values, count = own["correlation"].to_numpy(), len(own)
        mean, half = float(values.mean()), np.nan
        if count > 1:
            half = float(student_t.ppf((1 + _CONFIDENCE) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count))
        trials = float(own["trials"].mean())
        limits = {"low": mean - half, "high": mean + half} if count > 1 else {"low": None, "high": None}
        yield {"start": start, "trials": trials, "folds": count, "correlation": mean, **limits}


def figure(table: pd.DataFrame) -> Figure:
    """Correlation against training trials, one line per start; `table` is that of `summarise`."""
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(4.6, 3.2))
        axes = drawing.add_subplot()
        for start, own in table.groupby("start", sort=False):
            own = own.sort_values("trials")
            color = _COLORS.get(str(start), "#0072B2")
            label = "from random weights" if start == SCRATCH else f"from {start}"
            axes.plot(own["trials"], own["correlation"], "o-", color=color, label=label, markersize=4, linewidth=1.2)
            if own["low"].notna().all():
                low, high = own["low"].astype(float), own["high"].astype(float)
                axes.fill_between(own["trials"], low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        ticks = sorted(table["trials"].unique())
        axes.set_xticks(ticks, [f"{value:.0f}" for value in ticks])
        axes.minorticks_off()
        axes.set(xlabel="training trials per mouse", ylabel="correlation on held-out trials")
        axes.legend(loc="lower right")
    return drawing


def _record(
    config: Config, paths: Paths, experiment: str, fold: int, place: SweepPlace, table: pd.DataFrame, output: Path
) -> None:
    """Bring the curve's own run, the parent of its trainings, up to date."""
    run = tracking.start_training_run(config, paths, experiment, fold, place.fingerprint, place)
    for row in table.to_dict("records"):
        run.metrics({f"learning_curve/{row['start']}": row["correlation"]}, round(row["trials"]))
    for path in sorted(output.iterdir()):
        run.artifact(path)
    run.close("FINISHED")


def _print(experiment: str, table: pd.DataFrame, output: Path) -> None:
    shown = Table(title=f"Learning curve of {experiment}", title_justify="left")
    for heading in ("start", "trials", "folds", "correlation", "95 % interval"):
        shown.add_column(heading, justify="left" if heading == "start" else "right")
    for row in table.to_dict("records"):
        interval = "" if row["folds"] == 1 else f"{row['low']:.4f} to {row['high']:.4f}"
        shown.add_row(row["start"], f"{row['trials']:.0f}", str(row["folds"]), f"{row['correlation']:.4f}", interval)
    Console(highlight=False).print(shown)
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"{output}")
