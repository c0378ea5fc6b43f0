"""The figures of most exciting inputs and of reconstructed movies."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sensorium.insilico.figures import examples, grid
from sensorium.insilico.session import Picture
from sensorium.report.figures import PREDICTED, STYLE

_MOVIE_FRAMES = 4
"""Frames of a movie that a figure shows, from its second half."""
_STIMULI = (
    "For neurons at equal steps of the gain over the natural frame, the largest first: the natural frame that drives "
    "the neuron most, the most exciting image, and frames of the second half of the most exciting movie. Black is grey "
    "level 0, white 255."
)
_GAIN = (
    "Response to the most exciting input over that to the best natural stimulus of the training trials, as the animal "
    "saw it. The line is equality."
)


@mpl.rc_context(STYLE)
def of_most_exciting(summary: pd.DataFrame, arrays: Mapping[str, NDArray[Any]]) -> Sequence[Picture]:
    """Stimuli of example neurons, and responses beside those to natural stimuli."""
    image = summary[summary["stimulus"] == "image"].reset_index(drop=True)
    gain = image["response"] / image["natural_response"]
    chosen = examples(gain.where(~image["dead"]))
    return [
        Picture("Stimuli", _STIMULI, _stimuli(image["neuron"], gain, arrays, chosen)),
        Picture("Responses", _GAIN, _responses(summary)),
    ]


def _stimuli(
    neurons: "pd.Series[int]", gain: "pd.Series[float]", arrays: Mapping[str, NDArray[Any]], chosen: Sequence[int]
) -> Figure:
    length = arrays["movie"].shape[1]
    moments = np.linspace(length // 2, length - 1, _MOVIE_FRAMES).astype(int)
    heads = ["natural frame", "image", *(f"movie, frame {moment}" for moment in moments)]
    figure, panels = grid(len(chosen) * len(heads), 0.85, columns=len(heads))
    for place, row in enumerate(chosen):
        own = panels[place * len(heads) : (place + 1) * len(heads)]
        frames = [arrays["natural_image"][row, 0], arrays["image"][row, 0], *arrays["movie"][row, moments]]
        for axes, frame in zip(own, frames, strict=True):
            show(axes, frame)
        own[0].set_ylabel(f"neuron {neurons[row]}\nx {gain[row]:.1f}", fontsize=7)
    for axes, head in zip(panels, heads, strict=False):
        axes.set_title(head, fontsize=7)
    return figure


def show(axes: Axes, frame: NDArray[Any]) -> None:
    """Draw a frame (h, w) of grey levels."""
    axes.imshow(frame, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])


def _responses(summary: pd.DataFrame) -> Figure:
    kinds = list(dict.fromkeys(summary["stimulus"]))
    figure, panels = grid(len(kinds), 3.2, columns=len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        own = summary[summary["stimulus"] == kind]
        axes.plot(own["natural_response"], own["response"], "o", color=PREDICTED, markersize=4, alpha=0.7)
        ends = [0, max(own["natural_response"].max(), own["response"].max())]
        axes.plot(ends, ends, color="0.6", linewidth=0.8)
        axes.set_xlabel(f"response to the best natural {'frame' if kind == 'image' else 'clip'}")
        axes.set_title(kind, fontsize=9)
    panels[0].set_ylabel("response to the most exciting input")
    return figure
