"""The figures of most exciting inputs and of reconstructed movies."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sensorium.gratings import GREY
from sensorium.insilico.figures import examples, grid
from sensorium.insilico.session import Picture
from sensorium.report.figures import PREDICTED, STYLE

_MOVIE_FRAMES = 4
"""Frames of a movie that a figure shows, from its second half."""
_FILM_FRAMES, _FILM_ROWS = 7, 6
"""Frames of a film, and films, that a figure shows."""
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


_FILMS = (
    "Frames of the movie that was shown, and of the reconstruction below, at equal distances; outside of the mask all "
    "is grey. The GIF files of the folder show the whole films."
)
_CORRELATION = (
    "Pixel correlation of each trial, and the fall of the loss; dashed, the loss of the movie that was shown."
)


@mpl.rc_context(STYLE)
def of_reconstruction(
    trials: pd.DataFrame, losses: pd.DataFrame, films: Sequence[tuple[NDArray[Any], NDArray[Any]]], mask: NDArray[Any]
) -> Sequence[Picture]:
    """Frames of the shown and reconstructed movies (L, h, w) of each trial, and how well they agree."""
    return [
        Picture("Films", _FILMS, _films(trials, films, mask)),
        Picture("Agreement", _CORRELATION, _agreement(trials, losses)),
    ]


def _films(trials: pd.DataFrame, films: Sequence[tuple[NDArray[Any], NDArray[Any]]], mask: NDArray[Any]) -> Figure:
    count = min(len(films), _FILM_ROWS)
    figure, panels = grid(2 * count * _FILM_FRAMES, 0.75, columns=_FILM_FRAMES)
    for place in range(count):
        moments = np.linspace(len(films[place][0]) // 4, len(films[place][0]) - 1, _FILM_FRAMES).astype(int)
        for kind, movie in enumerate(films[place]):
            first = (2 * place + kind) * _FILM_FRAMES
            for axes, moment in zip(panels[first:], moments, strict=False):
                show(axes, np.where(mask, movie[moment], GREY))
            label = f"trial {trials['trial'].iloc[place]}" if kind == 0 else "reconstructed"
            panels[first].set_ylabel(label, fontsize=7)
    return figure


def _agreement(trials: pd.DataFrame, losses: pd.DataFrame) -> Figure:
    figure, (left, right) = grid(2, 2.6, columns=2)
    left.bar(trials["trial"].astype(str), trials["pixel_correlation"], color=PREDICTED)
    left.axhline(0, color="0.6", linewidth=0.8)
    left.set_xlabel("trial")
    left.set_ylabel("pixel correlation")
    for number, (trial, own) in enumerate(losses.groupby("trial", sort=False)):
        color = mpl.colormaps["viridis"](number / losses["trial"].nunique())
        right.plot(own["step"], own["loss"], color=color, label=f"trial {trial}")
        right.axhline(trials.set_index("trial")["true_loss"][trial], color=color, linestyle="--", linewidth=0.8)
    right.set_xlabel("step")
    right.set_ylabel("Poisson loss")
    return figure
