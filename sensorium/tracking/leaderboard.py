"""The leaderboard: one MLflow experiment per preset, whose rows are executions of experiments.

Folds, evaluations and trials of sweeps are nested below the rows. What its page shows follows from its rows: the
saved view has a column for every setting that differs, and the description lists the best.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sensorium.tracking import runs
from sensorium.tracking.descriptions import NOTE, differing, interval
from sensorium.tracking.provenance import COMMIT, DIRTY, SEED
from sensorium.tracking.sweeps import NAME as SWEEP_NAME
from sensorium.tracking.sweeps import NUMBER, SWEEP, TRIAL
from sensorium.tracking.views import LEADERBOARD, NAMES, saved_views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SIGNATURE = re.compile(r"\n\n<!-- sensorium [0-9a-f]{12} -->\Z")
"""End of a description that we wrote, a comment with its digest; one that somebody edited is left alone."""
HEADLINE = "score"
"""Metric of a row: single-trial correlation out of fold, over all neurons of all mice."""
_ROWS = ("experiment", "evaluation", SWEEP)
"""Roles of the runs that are rows, where they are below no other."""
_BEST = 10
"""Rows in the description."""
_ENDS = ("/ci_low", "/ci_high")
_SHOWN = {"distillation.teacher", "model.architecture"}
"""Settings that are columns of their own, as tags."""
_COLUMNS = 8
"""Settings that get a column of the view; a table with more is read sideways."""


def leaderboard_name(preset: str) -> str:
    """Name of the MLflow experiment that holds the runs of a preset, such as `sensorium-demo`."""
    return f"sensorium-{re.sub(r'[^A-Za-z0-9._-]+', '-', preset)}"


def note(client: "MlflowClient", run: "Run", text: str) -> None:
    """Describe a run, unless somebody has edited its description."""
    for key, value in _fresh(run.data.tags, text).items():
        client.set_tag(run.info.run_id, key, value)


def describe(client: "MlflowClient", run_id: str) -> None:
    """Describe a fold, trial or sweep that has finished, its parent, and the leaderboard that they are in."""
    run = client.get_run(run_id)
    if run.data.tags.get(runs.ROLE) == SWEEP:
        describe_row(client, run_id)
        return
    note(client, run, training_note(run, runs.best_epoch(client, run)))
    parent = run.data.tags.get(runs.PARENT)
    if parent is not None and runs.is_alive(client, parent):
        describe_row(client, parent)


def describe_row(client: "MlflowClient", run_id: str) -> None:
    """Describe a row after its figures have changed, and the leaderboard."""
    row = client.get_run(run_id)
    note(client, row, row_note(row))
    refresh(client, row.info.experiment_id)


def training_note(run: "Run", best: Mapping[str, float]) -> str:
    """What the training of a fold, or a trial, was, and how good its best epoch, in Markdown."""
    tags = run.data.tags
    fold = f"Fold {tags[runs.FOLD]} of {tags[runs.EXPERIMENT]}, held out for validation."
    trial = f" Trial {tags[NUMBER]} of the sweep {tags[SWEEP_NAME]}." if tags.get(runs.ROLE) == TRIAL else ""
    score = f" Validation correlation **{best[runs.SCORE]:.3f}** at its best epoch." if runs.SCORE in best else ""
    return f"{fold}{trial}{score} {_origin(run)}"


def row_note(run: "Run") -> str:
    """How good a row is, and what it was made of, in Markdown."""
    tags, metrics = run.data.tags, run.data.metrics
    score = interval(metrics, HEADLINE, HEADLINE)
    text = f"Score **{score}**: single-trial correlation out of fold." if score else "Not scored out of fold yet."
    for key in _differences(metrics):
        text += f" Difference to {key.removeprefix(runs.DIFFERENCE)}: {interval(metrics, key, key, '+.4f')}."
    if tags.get(runs.ROLE) == "evaluation":
        return f"{text}\n\n{_evaluated(tags[runs.EXPERIMENT])}"
    if tags.get(runs.ROLE) == SWEEP:
        best = f"; best validation correlation **{metrics[runs.SCORE]:.3f}**" if runs.SCORE in metrics else ""
        return f"Search of the hyper-parameters of {tags[runs.EXPERIMENT]}{best}. {_origin(run)}"
    validation = interval(metrics, f"{runs.SCORE}/mean", runs.SCORE)
    folds = f"{metrics.get('folds', 0):.0f} of {tags.get(runs.FOLDS, '?')} folds"
    lines = [
        text,
        f"Validation correlation {validation}, mean of {folds}." if validation else f"Trained: {folds}.",
        "",
        f"Experiment {tags.get(runs.EXPERIMENT)}. {_origin(run)}",
    ]
    if runs.DIFFERS in tags:
        lines.append(f"Differs from its first execution in {tags[runs.DIFFERS]}.")
    return "\n".join(lines)


def _evaluated(experiment: str) -> str:
    if "," in experiment:
        return f"Mean of the predictions of {experiment.replace(',', ' and ')}."
    return f"Folds of {experiment} that were trained elsewhere; their runs are not in this store."


def _origin(run: "Run") -> str:
    """Architecture, teacher, seed and code of a training."""
    tags = run.data.tags
    commit, dirty = tags.get(COMMIT, "")[:7], tags.get(DIRTY) == "true"
    parts = [
        tags.get(runs.ARCHITECTURE, ""),
        f"taught by {tags[runs.TEACHER]}" if runs.TEACHER in tags else "",
        f"seed {tags[SEED]}" if SEED in tags else "",
        f"commit {commit}{' with uncommitted changes' if dirty else ''}" if commit else "",
    ]
    return f"Trained with {', '.join(filter(None, parts))}." if any(parts) else ""


def _fresh(tags: Mapping[str, str], text: str) -> dict[str, str]:
    """The tag to set for a description; none where it is another person's, or the same."""
    there, wanted = tags.get(NOTE, ""), _signed(text)
    edited = there and there != _signed(_SIGNATURE.sub("", there))
    return {} if edited or there == wanted else {NOTE: wanted}


def _signed(text: str) -> str:
    return f"{text}\n\n<!-- sensorium {sha256(text.encode()).hexdigest()[:12]} -->"


def refresh(client: "MlflowClient", experiment_id: str) -> None:
    """Bring the view and the description of a leaderboard up to date with its rows."""
    experiment = client.get_experiment(experiment_id)
    rows = _rows(client, experiment_id)
    tags = _fresh(experiment.tags, _description(experiment_id, rows))
    tags |= {key: view for key, view in _views(rows).items() if experiment.tags.get(key) != view}
    for key, value in tags.items():
        client.set_experiment_tag(experiment_id, key, value)


def _rows(client: "MlflowClient", experiment_id: str) -> list["Run"]:
    """The rows, the best first, those without a score last and the newest of them first."""
    found = [run for role in _ROWS for run in runs.search(client, [experiment_id], {runs.ROLE: role})]
    rows = [run for run in found if runs.PARENT not in run.data.tags]
    return sorted(rows, key=lambda run: (-run.data.metrics.get(HEADLINE, -2.0), -run.info.start_time))


def _views(rows: Sequence["Run"]) -> dict[str, str]:
    metrics = dict.fromkeys(key for run in rows for key in run.data.metrics)
    mice = [key.removeprefix(f"{runs.SCORE}/") for key in metrics if _is_curve(key, metrics)]
    params = [key for key in differing([run.data.params for run in rows if run.data.params]) if key not in _SHOWN]
    return saved_views(params[:_COLUMNS], _differences(metrics), sorted(mice))


def _differences(metrics: Iterable[str]) -> list[str]:
    """Those of a row's metrics that are differences to experiments, not ends of intervals."""
    return sorted(key for key in metrics if key.startswith(runs.DIFFERENCE) and not key.endswith(_ENDS))


def _is_curve(key: str, known: Mapping[str, Any]) -> bool:
    """Whether a metric is the validation correlation of one mouse, not a figure over folds."""
    return key.startswith(f"{runs.SCORE}/") and f"{key}/mean" in known


def _description(experiment_id: str, rows: Sequence["Run"]) -> str:
    """Two lines that the run table shows above itself, and what they unfold to."""
    scored = [run for run in rows if HEADLINE in run.data.metrics]
    executions = sum(run.data.tags.get(runs.ROLE) == "experiment" for run in rows)
    best = f"Best {_cell(scored[0], HEADLINE)}: {scored[0].info.run_name}" if scored else "Nothing is scored yet"
    link = f"[{NAMES[LEADERBOARD]}](#/experiments/{experiment_id}/runs?viewStateShareKey={LEADERBOARD})"
    lines = [
        f"{best}; {executions} executions. {link}",
        "",
        "Score: single-trial correlation out of fold, with its 95% interval over folds.",
        "",
        "| run | score | validation | commit |",
        "|---|---|---|---|",
    ]
    for run in [*scored, *(run for run in rows if run not in scored)][:_BEST]:
        page = f"[{run.info.run_name}](#/experiments/{experiment_id}/runs/{run.info.run_id})"
        commit = run.data.tags.get(COMMIT, "")[:7]
        lines.append(f"| {page} | {_cell(run, HEADLINE)} | {_cell(run, f'{runs.SCORE}/mean')} | {commit} |")
    return "\n".join(lines)


def _cell(run: "Run", key: str) -> str:
    return interval(run.data.metrics, key, key.removesuffix("/mean")) or ""
