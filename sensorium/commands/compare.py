"""`sensorium compare`: is the one better than the other, by how much, on which mice and folds?"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sensorium.config import Config
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, PredictionError, TrackingError
from sensorium.evaluation.comparison import Interval, MouseFold, Videos, compare
from sensorium.evaluation.scores import scored_precision
from sensorium.files import atomic_file, read_json, write_json
from sensorium.inference.ensemble import combine
from sensorium.inference.predictions import Predictions
from sensorium.mice import FOLDS_SPLIT, short_name
from sensorium.paths import Paths
from sensorium.tracking.project_run import log_results

_RUN = re.compile(r"[0-9a-f]{32}")
_INCHES_PER_ROW = 0.25

Cells = Mapping[MouseFold, Interval]
"""The differences of every mouse and fold; the limits are NaN where single scores are compared."""


def run(
    config: Config,
    paths: Paths,
    candidate: Annotated[
        str | None, typer.Argument(help="Experiment (or several, joined by commas), run id, or pair version.")
    ] = None,
    reference: Annotated[str | None, typer.Argument(help="What to compare with; for pairs also `champion`.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
) -> None:
    """Find out whether one experiment, run or pair is better than another, with 95% intervals and a figure.

    Experiments are compared by their out-of-fold predictions, with intervals over videos; runs and pairs by their
    scores, with one interval over mice and folds. With one experiment all others are compared with it, with none
    all with the best.

    Examples: `sensorium compare distillation_001 true_batch_001`, `sensorium compare 3 champion`.

    Raises:
        ConfigError: one of the two is unknown, they are of different kinds, or there is nothing to compare with.
        PredictionError: predictions are missing or damaged, or nothing is evaluated yet.
        TrackingError: a run or version is missing, or they share no mouse and fold.
    """
    if candidate is None or reference is None:
        _compare_all(config, paths, candidate, as_markdown)
        return
    kinds = {_kind(config, name) for name in (candidate, reference)}
    if len(kinds) > 1:
        raise ConfigError(
            f"{candidate} and {reference}: of different kinds, {' and '.join(sorted(kinds))}.",
            "Compare two experiments, two runs or two pairs.",
        )
    if kinds == {"experiment"}:
        cells, whole = _by_videos(config, paths, candidate, reference)
    else:
        cells, whole = _by_scores(paths, kinds == {"run"}, candidate, reference)
    _print(cells, whole, candidate, reference, as_markdown)
    log_results(paths, {f"difference/{key}": getattr(whole, key) for key in ("mean", "low", "high")})
    _write(paths.root / "reports" / "comparison" / f"{candidate}-{reference}", cells, whole, (candidate, reference))


def _compare_all(config: Config, paths: Paths, reference: str | None, as_markdown: bool) -> None:
    """Compare every experiment with one of them, or with several joined by commas; with the best by default."""
    if reference is None:
        remedy = "Type `dvc repro` first, or name two experiments."
        scores = read_json(paths.evaluation / "overall.json", PredictionError, remedy)
        reference = max(config.experiments, key=lambda name: float(scores.get(name, -1.0)))
    if _kind(config, reference) != "experiment":
        raise ConfigError(f"{reference}: no experiment.", "Name what to compare it with: a second run or pair.")
    others = [name for name in config.experiments if name != reference]
    if not others:
        raise ConfigError(f"{reference}: params.yaml has no other experiment.", "`sensorium experiment new` adds one.")
    found = {name: _by_videos(config, paths, name, reference)[1] for name in others}
    rows = [
        (name, f"{whole.mean:+.4f}", f"{whole.low:+.4f} to {whole.high:+.4f}", whole.verdict)
        for name, whole in sorted(found.items(), key=lambda item: -item[1].mean)
    ]
    headings = ("experiment", "difference", "95% interval", "verdict")
    _print_table(f"Correlation, minus {reference}", headings, rows, as_markdown)


def _kind(config: Config, name: str) -> str:
    if all(part in config.experiments for part in name.split(",")):
        return "experiment"
    if _RUN.fullmatch(name):
        return "run"
    if name == "champion" or name.isdigit():
        return "pair"
    raise ConfigError(
        f"{name!r}: neither an experiment of params.yaml, nor an MLflow run, nor a registered pair.",
        f"Name one of {', '.join(config.experiments)}, a run's id of 32 digits, a pair's version, or champion.",
    )


def _by_videos(config: Config, paths: Paths, candidate: str, reference: str) -> tuple[Cells, Interval]:
    folds, videos = Folds.load(paths.folds), Videos()
    sides = [
        [Predictions.open(paths.predictions(part, FOLDS_SPLIT)) for part in name.split(",")]
        for name in (candidate, reference)
    ]
    title, console = f"Comparing {candidate} with {reference}", Console(stderr=True)
    for mouse in track(list(config.dataset.mice), title, console=console, transient=True):
        store = MouseStore(paths.store(mouse))
        numbers, groups = folds.of(mouse), folds.group(mouse)
        scored, precision = scored_precision(store, config.evaluation)
        for trial in np.flatnonzero(np.isin(numbers, list(config.folds.train.values()))).tolist():
            target = store.responses(trial).T[:, scored]
            weight = precision[:, : target.shape[1]]
            shape = (store.neurons, int(store.lengths[trial]))
            first, second = (
                combine([member.load(mouse, trial, shape) for member in side], None)[:, scored] * weight
                for side in sides
            )
            videos.add((mouse, int(numbers[trial])), int(groups[trial]), target * weight, first, second)
    return videos.differences()


def _by_scores(paths: Paths, runs: bool, candidate: str, reference: str) -> tuple[Cells, Interval]:
    from sensorium.registry.promotion import scores_of_pair
    from sensorium.registry.results import scores_of_run

    read = scores_of_run if runs else scores_of_pair
    found = compare(read(paths, candidate), read(paths, reference))
    if found is None:
        raise TrackingError(
            f"{candidate} and {reference}: they share no mouse and fold that is scored.",
            "Compare experiments whose folds are finished.",
        )
    cells = {
        (str(mouse), int(str(fold))): Interval(float(value), np.nan, np.nan)
        for mouse, row in found.differences.iterrows()
        for fold, value in row.dropna().items()
    }
    return cells, found


def _print(cells: Cells, whole: Interval, candidate: str, reference: str, as_markdown: bool) -> None:
    rows = []
    for (mouse, fold), found in cells.items():
        judged = (f"{found.low:+.4f} to {found.high:+.4f}", found.verdict) if np.isfinite(found.low) else ("", "")
        rows.append((short_name(mouse), str(fold), f"{found.mean:+.4f}", *judged))
    headings = ("mouse", "fold", "difference", "95% interval", "verdict")
    _print_table(f"Correlation, {candidate} minus {reference}", headings, rows, as_markdown)
    Console(soft_wrap=True).print(f"{candidate} against {reference}: {whole}.")


def _print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], as_markdown: bool) -> None:
    if as_markdown:
        lines = [headings, ["---"] * len(headings), *rows]
        print("\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""]))  # noqa: T201 - output
        return
    table = Table(*headings, title=title)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def _write(folder: Path, cells: Cells, whole: Interval, names: tuple[str, str]) -> None:
    rows = [{"mouse": mouse, "fold": fold, **_numbers(difference)} for (mouse, fold), difference in cells.items()]
    tree = {"candidate": names[0], "reference": names[1], "all": _numbers(whole), "verdict": whole.verdict}
    write_json(folder.with_name(f"{folder.name}.json"), {**tree, "cells": rows})
    with atomic_file(folder.with_name(f"{folder.name}.png")) as partial:
        _figure(cells, whole, names).savefig(partial, format="png", dpi=150)


def _numbers(found: Interval) -> dict[str, float]:
    numbers = {"difference": found.mean, "low": found.low, "high": found.high}
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def _figure(cells: Cells, whole: Interval, names: tuple[str, str]) -> Figure:
    """One row per mouse and fold, the whole at the bottom: point and interval around zero."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(6, 1.2 + _INCHES_PER_ROW * (len(cells) + 1)), layout="constrained")
        axes = figure.add_subplot()
        labels = [f"{mouse.split('-Video-')[0]}, fold {fold}" for mouse, fold in cells] + ["all"]
        for row, interval in enumerate([*cells.values(), whole]):
            colour = "black" if interval is whole else "tab:blue"
            axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=1.5)
            axes.plot(interval.mean, row, "o", color=colour, markersize=4)
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set(title=whole.verdict, xlabel=f"difference of correlation, {names[0]} minus {names[1]}")
    return figure
