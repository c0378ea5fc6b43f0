"""The model card of a published model: Markdown with the YAML that the Hugging Face hub reads.

https://huggingface.co/docs/hub/model-cards
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from sensorium import __version__
from sensorium.hub.release import ScoreTable
from sensorium.inference.encoding_model import MouseInfo
from sensorium.mice import short_name
from sensorium.model.checkpoint import ModelInfo

_LICENCES = {"MIT License": "mit"}
"""Identifier on the hub by the first line of a licence."""
_TAGS = ["neuroscience", "neural-encoding", "mouse-visual-cortex", "video", "sensorium-2023"]
_METRIC = "single-trial correlation, out of fold"


@dataclass(frozen=True)
class Facts:
    """What a card says."""

    infos: Sequence[ModelInfo]
    """Descriptions of the trained folds."""
    mice: Mapping[str, MouseInfo]
    recordings: Mapping[str, str]
    """Digest of the raw recordings by mouse."""
    simulated: bool
    """Whether the recordings are simulated."""
    weights: Mapping[str, float] | None
    scores: ScoreTable
    licence: str
    """First line of the licence."""

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments."""
        return sorted({info.experiment for info in self.infos})

    @property
    def dataset(self) -> str:
        """Name of the data that the model was trained on."""
        return "simulated recordings in the form of Sensorium 2023" if self.simulated else "recordings of mouse V1"


def model_card(facts: Facts) -> str:
    """README.md of a published model; equal facts give equal text."""
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True, width=120)
    parts = [_summary(facts), _use(facts), _mice(facts), _scores(facts), _training(facts), _LIMITS, _legal(facts)]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts) -> dict[str, object]:
    metrics = [
        {"type": "pearson-correlation", "name": f"{_METRIC}, {name}", "value": score.mean}
        for name, score in facts.scores.scores.items()
    ]
    result = {
        "task": {"type": "other", "name": "prediction of neural responses to video"},
        "dataset": {"type": "sensorium", "name": facts.dataset},
        "metrics": metrics,
    }
    index = [{"name": " + ".join(facts.experiments), "results": [result]}] if metrics else []
    front = {"license": _LICENCES.get(facts.licence, "other"), "library_name": "sensorium", "tags": _TAGS}
    return front | ({"model-index": index} if index else {})


def _summary(facts: Facts) -> str:
    return (
        f"# {' + '.join(facts.experiments)}\n\n"
        "Predicts the responses of neurons in mouse visual cortex (V1) to video, from the video, the mouse's running\n"
        f"and its pupil. Trained on {facts.dataset}."
    )


def _use(facts: Facts) -> str:
    mouse, known = next(iter(facts.mice.items()))
    rows, columns = known.frame
    return f"""## Use

With the Python package `sensorium`, release {__version__} or later:

```python
import sensorium
model = sensorium.load("hf://OWNER/NAME")  # or this folder
responses = model.predict(video, mouse="{short_name(mouse)}")
```

`video` has the shape (frames, {rows}, {columns}), grey levels from 0 to 255, 30 frames a second. `responses.values` has
the shape (neurons, frames), `responses.unit_ids` names the neurons. `behavior` (pupil dilation and running speed) and
`pupil_center`, both (2, frames), are the mouse's means where they are not given. Every file is verified against the
SHA-256 in `config.json` before it is used."""


def _mice(facts: Facts) -> str:
    lines = ["## Mice", "", "| mouse | neurons | frame, pixels | digest of the recordings |", "|---|---|---|---|"]
    for mouse, known in facts.mice.items():
        rows, columns = known.frame
        lines.append(f"| {mouse} | {len(known.unit_ids)} | {rows} x {columns} | `{facts.recordings[mouse][:12]}` |")
    return "\n".join([*lines, "", "Unit ids are in `mice.json`, the whole digests in `config.json`."])


def _scores(facts: Facts) -> str:
    table = facts.scores.scores
    if not table:
        return "## Scores\n\nThese weights were not evaluated out of fold."
    mice = " | ".join(short_name(mouse) for mouse in facts.mice)
    lines = ["## Scores", "", f"| | all mice | 95 % interval | {mice} |", "|---|---|---|" + "---|" * len(facts.mice)]
    for name, score in table.items():
        cells = " | ".join(f"{score.mice[mouse]:.4f}" if mouse in score.mice else "" for mouse in facts.mice)
        lines.append(f"| {name} | {score.mean:.4f} | {score.low:.4f} to {score.high:.4f} | {cells} |")
    return "\n".join(
        [
            *lines,
            "",
            "Single-trial correlation between prediction and response, each fold's models on the trials that they have",
            "not learnt from; what `predict` returns is the mean over folds. The interval is of the bootstrap over",
            "mice and folds. The same numbers are in `scores.json`.",
        ]
    )


def _training(facts: Facts) -> str:
    lines = [
        "## Models",
        "",
        "| experiment | architecture | folds | weight in the mean | window |",
        "|---|---|---|---|---|",
    ]
    for name in facts.experiments:
        infos = [info for info in facts.infos if info.experiment == name]
        folds, window = ", ".join(str(info.fold) for info in infos), infos[0].window
        weight = (facts.weights or {}).get(name, 1 / len(facts.experiments))
        span = f"{window.frames} frames at step {window.step}"
        lines.append(f"| {name} | {infos[0].model.architecture} | {folds} | {weight:.4g} | {span} |")
    return "\n".join(
        [
            *lines,
            "",
            "The prediction is the mean over folds of each experiment, then the weighted mean over experiments.",
            "Settings, seed and digests of code and data of each training are in the `config.json` of its fold.",
        ]
    )


_LIMITS = """## Limits

Of use for the recorded neurons of the mice above alone. Responses are in the units of the recordings, at 30 Hz."""


def _legal(facts: Facts) -> str:
    return f"""## Licence and citation

{facts.licence}, see `LICENSE`. Please cite what `CITATION.cff` names, and the competition:
Turishcheva et al., The Dynamic Sensorium competition for predicting large-scale mouse visual cortex activity from
videos, 2023, https://arxiv.org/abs/2305.19654."""
