"""What a sweep found: its trials as rows, the importance of its parameters, and a figure of both."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from sensorium.sweep.study import REASON

_STYLE: dict[Any, Any] = {
    "figure.dpi": 144,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_COMPLETE, _PRUNED, _BEST = "#0072B2", "#999999", "#D55E00"  # Okabe and Ito's colours
_COLUMNS = 3
_CELL = (2.6, 2.3)
"""Width and height of one plot, inches."""
_ENOUGH = 2
"""Trials without which nothing can be said of importance."""


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were trained to their end."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def row(trial: FrozenTrial) -> dict[str, Any]:
    """One trial as plain values: number, state, val_correlation, epochs, its parameters, and why it was given up."""
    return {
        "trial": trial.number,
        "state": "failed" if REASON in trial.user_attrs else trial.state.name.lower(),
        "val_correlation": trial.value,
        "epochs": len(trial.intermediate_values),
        **trial.params,
        **({REASON: trial.user_attrs[REASON]} if REASON in trial.user_attrs else {}),
    }


def to_csv(trials: Sequence[FrozenTrial]) -> str:
    """All trials as a table."""
    return pd.DataFrame(map(row, trials), dtype=object).to_csv(index=False, lineterminator="\n")


def importances(study: optuna.Study, seed: int) -> dict[str, float]:
    """Share of each parameter in the variance of the validation correlation (functional ANOVA, Optuna's).

    Empty where fewer than two trials, or only equal ones, are complete.

    Args:
        study: the study.
        seed: of the random forest that stands for the trials in between.
    """
    if len({trial.value for trial in completed(study)}) < _ENOUGH:
        return {}
    return optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))


def figure(study: optuna.Study, importance: Mapping[str, float]) -> Figure:
    """Trials in their order, learning curves, importance, and a plot of each parameter.

    Args:
        study: at least one of its trials is complete.
        importance: of each parameter, from `importances`.
    """
    keys = list(importance) or list(study.best_trial.params)
    rows = -(-(3 + len(keys)) // _COLUMNS)
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(_COLUMNS * _CELL[0], rows * _CELL[1]))
        axes = [drawing.add_subplot(rows, _COLUMNS, 1 + place) for place in range(3 + len(keys))]
        _draw_history(axes[0], study)
        _draw_curves(axes[1], study)
        _draw_importance(axes[2], importance)
        for ax, key in zip(axes[3:], keys, strict=True):
            _draw_parameter(ax, study, key)
    return drawing


def _scored(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]


def _colour(study: optuna.Study, trial: FrozenTrial) -> str:
    if trial.number == study.best_trial.number:
        return _BEST
    return _COMPLETE if trial.state == TrialState.COMPLETE else _PRUNED


def _draw_points(ax: Axes, study: optuna.Study, places: Sequence[Any], trials: Sequence[FrozenTrial]) -> None:
    for place, trial in zip(places, trials, strict=True):
        ax.plot(place, trial.values[0], "o", color=_colour(study, trial), markersize=5, clip_on=False)


def _draw_history(ax: Axes, study: optuna.Study) -> None:
    trials = _scored(study)
    _draw_points(ax, study, [trial.number for trial in trials], trials)
    ended = completed(study)
    best = np.maximum.accumulate([trial.values[0] for trial in ended])
    ax.step([trial.number for trial in ended], best, where="post", color=_BEST, linewidth=1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(title="Trials", xlabel="trial", ylabel="validation correlation")


def _draw_curves(ax: Axes, study: optuna.Study) -> None:
    best = study.best_trial.number
    for trial in sorted(_scored(study), key=lambda trial: trial.number == best):
        curve = sorted(trial.intermediate_values.items())
        epochs, values = [1 + epoch for epoch, _ in curve], [value for _, value in curve]
        ax.plot(epochs, values, ".-", color=_colour(study, trial), linewidth=1)
    for colour, label in ((_BEST, "best"), (_COMPLETE, "complete"), (_PRUNED, "pruned")):
        ax.plot([], [], ".-", color=colour, label=label)
    ax.legend(loc="lower right")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(title="Learning curves", xlabel="epoch")


def _draw_importance(ax: Axes, importance: Mapping[str, float]) -> None:
    names, shares = list(importance)[::-1], list(importance.values())[::-1]
    ax.barh([name.rpartition(".")[2] for name in names], shares, color=_COMPLETE)
    ax.set(title="Importance", xlabel="share of variance", xlim=(0, 1))


def _draw_parameter(ax: Axes, study: optuna.Study, key: str) -> None:
    trials = [trial for trial in _scored(study) if key in trial.params]
    distribution = trials[0].distributions[key]
    values = [trial.params[key] for trial in trials]
    if isinstance(distribution, CategoricalDistribution):
        labels = [str(choice) for choice in distribution.choices]
        ax.set_xticks(range(len(labels)), labels)
        values = [labels.index(str(value)) for value in values]
    else:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high = distribution.low, distribution.high
        ax.set(xscale="log" if distribution.log else "linear", xlim=(low, high))
        if distribution.log:
            ticks = np.geomspace(low, high, 3)
            ax.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            ax.minorticks_off()
    _draw_points(ax, study, values, trials)
    ax.set(xlabel=key)
