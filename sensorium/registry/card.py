"""What a reader of the registry and of a run should see: a model card in Markdown, and two figures."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from sensorium.evaluation.tables import HISTORY_FILE, SINGLE_TRIAL
from sensorium.mice import short_name
from sensorium.paths import Paths
from sensorium.registry.flavor import ENSEMBLE
from sensorium.registry.manifest import PAIR, PairPin

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CARD = "model_card.md"
"""Artifact of a run; the same text is the description of the model versions."""
_CURVE = "val_correlation"
_COLORS = 64


def attach(client: "MlflowClient", run_id: str, paths: Paths, pin: PairPin, scores: Mapping[str, Any]) -> None:
    """Log the card of a registered pair and two figures as artifacts of a run.

    Args:
        client: MLflow's.
        run_id: the run.
        paths: where the trained folds lie.
        pin: the registered pair.
        scores: what metrics.json holds of the pair, by role.
    """
    experiments = sorted(model.experiment for model in pin.models.values())
    client.log_text(run_id, model_card(pin, scores), _CARD)
    for name, figure in {
        "scores": _scores_by_mouse(scores, [*pin.models, ENSEMBLE]),
        "learning_curves": _learning_curves(paths, experiments),
    }.items():
        client.log_image(run_id, _picture(figure), f"figures/{name}.png")


def _picture(figure: Figure) -> Image.Image:
    """A figure in as many colors as its lines and letters need: a third of the bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120)
    return Image.open(drawn).convert("RGB").quantize(_COLORS)


def _scores_by_mouse(scores: Mapping[str, Any], sources: Sequence[str]) -> Figure:
    """Single-trial correlation out of fold, a group of bars per mouse."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    mice = scores.get("mice", {})
    for number, source in enumerate(sources):
        places = [mouse + (number - 1) * 0.27 for mouse in range(len(mice))]
        axes.bar(places, [tree[SINGLE_TRIAL].get(source, 0.0) for tree in mice.values()], width=0.25, label=source)
    axes.set_xticks(range(len(mice)), [short_name(mouse) for mouse in mice])
    axes.set_ylabel("correlation, out of fold")
    figure.legend(loc="outside upper right", ncols=len(sources), frameon=False)
    return figure


def _learning_curves(paths: Paths, experiments: Sequence[str]) -> Figure:
    """Validation correlation by epoch, a line per fold; none where the fold came without its training's history."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    for number, experiment in enumerate(experiments):
        label: str | None = experiment
        for path in sorted(paths.experiment(experiment).glob(f"fold_*/{HISTORY_FILE}")):
            history = pd.read_csv(path)
            if _CURVE in history:
                axes.plot(history["epoch"], history[_CURVE], color=f"C{number}", label=label)
                label = None
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation correlation")
    if axes.lines:
        figure.legend(loc="outside upper right", ncols=len(experiments), frameon=False)
    return figure


def model_card(pin: PairPin, scores: Mapping[str, Any]) -> str:
    """What a reader of the registry page should know, in Markdown; the arguments are those of `attach`."""
    sources = [*pin.models, ENSEMBLE]
    metrics = [name for name, value in scores.items() if name != "mice" and isinstance(value, Mapping)]
    rows = ["| out of fold | " + " | ".join(sources) + " |", "|---|" + "---|" * len(sources)]
    rows += [_row(metric.replace("_", " "), scores[metric], sources) for metric in metrics]
    for mouse, tree in scores.get("mice", {}).items():
        rows.append(_row(mouse.split("-Video-")[0], tree.get(SINGLE_TRIAL, {}), sources))
    versions = [f"{m.name} {m.version} ({m.experiment}, {len(m.folds)} folds)" for m in pin.models.values()]
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


def _row(title: str, scores: Mapping[str, float], sources: Sequence[str]) -> str:
    cells = [f"{scores[source]:.4f}" if scores.get(source) is not None else "" for source in sources]
    return f"| {title} | {' | '.join(cells)} |"
