"""Names and descriptions of runs: what was trained, from what, how it differs from others, how good it is."""

from collections.abc import Iterable, Mapping, Sequence

NOTE = "mlflow.note.content"
"""Tag that MLflow's UI shows as the description, in Markdown."""
_MOST_DIFFERENCES = 3
_MOST_CHARACTERS = 24
"""Longest value in a name; a list of widths may be longer."""
_DIGITS = 4

Params = Mapping[str, str]


def rounded(value: float) -> float:
    """A number with the digits that a score over a few folds or mice has at most: four, after the point below 1."""
    return round(value, _DIGITS) if abs(value) < 1 else float(f"{value:.{_DIGITS}g}")


def differing(rows: Sequence[Params]) -> list[str]:
    """Keys whose values differ between any two of the rows, in the order of their first appearance."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({row.get(key) for row in rows}) > 1]


def differences(params: Params, reference: Params) -> list[str]:
    """What differs, such as `learning_rate=0.005`; a key's last part stands for it where no other key shares it."""
    last = [key.rpartition(".")[2] for key in {**reference, **params}]
    found = []
    for key in differing([reference, params]):
        short = key.rpartition(".")[2]
        found.append(f"{short if last.count(short) == 1 else key}={_shortened(params.get(key, 'none'))}")
    return found


def _shortened(value: str) -> str:
    return value if len(value) <= _MOST_CHARACTERS else f"{value[: _MOST_CHARACTERS - 1]}…"


def run_name(experiment: str, changes: Sequence[str], taken: Iterable[str], dvc_experiment: str | None = None) -> str:
    """Name of an execution of an experiment that no other has.

    Args:
        experiment: what is trained.
        changes: what differs from the experiment's first execution.
        taken: names of the executions that there are.
        dvc_experiment: name that DVC gave to the experiment that it runs, for executions that differ in nothing.
    """
    more = len(changes) - _MOST_DIFFERENCES
    shown = [*changes[:_MOST_DIFFERENCES], *([f"+{more}"] if more > 0 else [])]
    known, name = set(taken), " ".join([experiment, *shown])
    if dvc_experiment and (name in known or not changes):
        name = f"{name} {dvc_experiment}"
    number = 1
    while (unique := name if number == 1 else f"{name} #{number}") in known:
        number += 1
    return unique


def interval(metrics: Mapping[str, float], key: str, prefix: str, style: str = ".3f") -> str | None:
    """A score and its interval as text, None where the run has no such score.

    Args:
        metrics: of a run.
        key: of the score.
        prefix: of its interval's ends, `<prefix>/ci_low` and `<prefix>/ci_high`.
        style: of the numbers.
    """
    if key not in metrics:
        return None
    ends = [metrics[f"{prefix}/{end}"] for end in ("ci_low", "ci_high") if f"{prefix}/{end}" in metrics]
    shown = ", ".join(f"{end:{style}}" for end in ends)
    return f"{metrics[key]:{style}}{f' [{shown}]' if shown else ''}"
