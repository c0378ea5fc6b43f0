"""What a reader of the registry and of a run should see: a card in Markdown, and two figures."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from sensorium.mice import short_name
from sensorium.paths import Paths
from sensorium.registry.flavor import ENSEMBLE
from sensorium.registry.manifest import PAIR, PairPin

if TYPE_CHECKING:
    from mlflow import MlflowClient

CARD = "model_card.md"
"""Artifact of a run; the same text is the description of the model versions."""
_SCORE, _CURVE = "single_trial_correlation", "val_correlation"


@dataclass(frozen=True)
class Papers:
    """What is attached to the runs of a registered pair."""

    card: str
    figures: Mapping[str, Figure]
    """By the name of the artifact."""

    def attach(self, client: "MlflowClient", run_id: str) -> None:
        """Log them as artifacts of a run."""
        client.log_text(run_id, self.card, CARD)
        for name, figure in self.figures.items():
            client.log_figure(run_id, figure, name, save_kwargs={"dpi": 120})


def scores_by_mouse(scores: Mapping[str, Any], sources: Sequence[str]) -> Figure:
    """Single-trial correlation out of fold, a group of bars a mouse.

    Args:
        scores: what metrics.json tells of the pair, by role.
        sources: what was scored, in their order.
    """
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    mice = scores.get("mice", {})
    for number, source in enumerate(sources):
        places = [mouse + (number - 1) * 0.27 for mouse in range(len(mice))]
        axes.bar(places, [tree[_SCORE].get(source, 0.0) for tree in mice.values()], width=0.25, label=source)
    axes.set_xticks(range(len(mice)), [short_name(mouse) for mouse in mice])
    axes.set_ylabel("correlation, out of fold")
    figure.legend(loc="outside upper right", ncols=len(sources), frameon=False)
    return figure


def learning_curves(paths: Paths, experiments: Sequence[str]) -> Figure:
    """Validation correlation by epoch, a line a fold."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    for number, experiment in enumerate(experiments):
        label: str | None = experiment
        for path in sorted(paths.experiment(experiment).glob("fold_*/history.csv")):
            epochs, values = _curve(path)
            if values:
                axes.plot(epochs, values, color=f"C{number}", label=label)
                label = None
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation correlation")
    if axes.lines:
        figure.legend(loc="outside upper right", ncols=len(experiments), frameon=False)
    return figure


def _curve(path: Path) -> tuple[list[int], list[float]]:
    """Epochs and correlations; none where the fold came without the history of its training."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get(_CURVE)]
    return [int(row["epoch"]) for row in rows], [float(row[_CURVE]) for row in rows]


def model_card(pin: PairPin, scores: Mapping[str, Any]) -> str:
    """What a reader of the registry page should know, in Markdown.

    Args:
        pin: the registered pair.
        scores: what metrics.json tells of the pair, by role.
    """
    sources = [*pin.models, ENSEMBLE]
    metrics = [name for name, value in scores.items() if name != "mice" and isinstance(value, Mapping)]
    rows = ["| out of fold | " + " | ".join(sources) + " |", "|---|" + "---|" * len(sources)]
    for metric in metrics:
        cells = [_cell(scores[metric].get(source)) for source in sources]
        rows.append(f"| {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    for mouse, tree in scores.get("mice", {}).items():
        cells = [_cell(tree.get("single_trial_correlation", {}).get(source)) for source in sources]
        rows.append(f"| {mouse.split('-Video-')[0]} | {' | '.join(cells)} |")
    versions = [
        f"{c.name} {pin.versions[role]} ({c.experiment}, {len(c.folds)} folds)" for role, c in pin.models.items()
    ]
    return "\n".join(
        [
            "Predicts the responses of mouse visual cortex (V1) neurons to video, from the video, running and pupil.",
            "",
            f"Pair: {PAIR} {pin.pair.version} = {' + '.join(versions)}.",
            "",
            *rows,
            "",
            "Trained on the mice named above and of use for their recorded neurons alone. Responses are in the",
            "units of the published recordings, at 30 Hz; behaviour and pupil position are needed as inputs.",
            "",
            f"Load it by `mlflow.pyfunc.load_model('models:/{PAIR}@champion')` and type",
            "`.predict({'video': ..., 'behavior': ..., 'pupil_center': ...}, params={'mouse': ...})`.",
        ]
    )


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
