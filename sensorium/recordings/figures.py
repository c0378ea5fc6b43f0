"""Pictures of what a mouse's store holds: one figure of a mouse, one of a trial.

Nothing but what is shown is read. L frames, H W pixels, N neurons.
"""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sensorium.data.store import MouseStore
from sensorium.errors import DataError
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.recordings.inspect import TierCount, count_tiers, mean_responses

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), which colour-blind readers can distinguish.
_LABELLED, _WITHHELD, _SECOND, _DARK = "#0072B2", "#BBBBBB", "#D55E00", "#333333"

_WIDTH = 8.4  # inches
_TILES = 8  # frames of a trial that are shown
_GAP = 2  # white pixels between two frames
_NEURONS = 5  # neurons of a trial whose responses are shown


def choose_neurons(responses: npt.NDArray[np.float32], count: int = _NEURONS) -> list[int]:
    """The neurons whose responses (L, N) vary most, the strongest first; ties go to the first."""
    order = np.argsort(-responses.var(axis=0, dtype=np.float64), kind="stable")
    return [int(neuron) for neuron in order[:count]]


def draw_mouse(store: MouseStore, folds: npt.NDArray[np.int64] | None) -> Figure:
    """Tiers, folds, where the neurons lie, and the distribution of their mean responses.

    Args:
        store: the mouse.
        folds: fold (trials,) of each trial; None when none is assigned yet.

    Raises:
        DataError: the store is damaged.
    """
    figure = Figure(figsize=(_WIDTH, 6.2))
    (tiers, by_fold), (space, means) = figure.subplots(2, 2)
    _head(figure, store)
    counts = count_tiers(store, folds)
    _draw_tiers(tiers, counts)
    _draw_folds(by_fold, counts)
    responses = mean_responses(store)
    _draw_positions(space, store.coordinates, responses)
    means.hist(responses, bins=min(60, 5 + store.neurons // 6), color=_LABELLED)
    means.axvline(float(np.median(responses)), color=_DARK, linewidth=1, linestyle="--", label="median")
    means.set(title="Mean responses in training trials", xlabel="mean response", ylabel="neurons")
    means.legend()
    return figure


def _draw_tiers(axes: Axes, counts: list[TierCount]) -> None:
    names = [row.tier for row in counts]
    labelled = [row.labelled for row in counts]
    rest = [row.trials - row.labelled for row in counts]
    axes.barh(names, labelled, color=_LABELLED, label="labelled")
    bars = axes.barh(names, rest, left=labelled, color=_WITHHELD, label="no data")
    axes.bar_label(bars, [str(row.trials) for row in counts], padding=3, fontsize=8)
    axes.margins(x=0.14)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title="Trials by tier", xlabel="trials")
    axes.legend(loc="lower right")


def _draw_folds(axes: Axes, counts: list[TierCount]) -> None:
    axes.set_title("Labelled trials by fold")
    present = [row for row in counts if any(row.folds)]
    if not present:
        _print_instead(axes, "no fold assigned yet")
        return
    folds = np.arange(len(present[0].folds))
    bottom = np.zeros(len(folds))
    palette = (_LABELLED, _SECOND, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
    for row, color in zip(present, palette, strict=False):
        bars = axes.bar(folds, row.folds, bottom=bottom, color=color, label=row.tier, width=0.7)
        bottom += row.folds
    axes.bar_label(bars, [f"{total:.0f}" for total in bottom], padding=2, fontsize=8)
    axes.set_xticks(folds)
    axes.margins(y=0.28)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="fold", ylabel="trials")
    axes.legend(loc="upper left", ncols=3, fontsize=7)


def _draw_positions(axes: Axes, positions: npt.NDArray[np.float32], responses: npt.NDArray[np.float64]) -> None:
    size = float(np.clip(6000 / len(positions), 2, 30))
    top = np.quantile(responses, 0.98)
    order = np.argsort(responses, kind="stable")
    x, y = positions[order, 0], positions[order, 1]
    points = axes.scatter(x, y, s=size, c=responses[order], vmax=top, cmap="viridis", linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(title="Where the neurons lie", xlabel="x, µm", ylabel="y, µm")
    axes.figure.colorbar(points, ax=axes, label="mean response", extend="max")


def _head(figure: Figure, store: MouseStore) -> None:
    figure.suptitle(store.name, fontsize=11, fontweight="bold", x=0.01, ha="left")


def _print_instead(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#777777")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)


def draw_trial(store: MouseStore, trial: int) -> Figure:
    """A strip of frames over the traces of the animal's state and of a few neurons, on one time axis.

    Where the responses are withheld and the noiseless rate is known, the rate alone is drawn.

    Raises:
        DataError: the trial has no valid frame, or the store is damaged.
    """
    if store.lengths[trial] == 0:
        raise DataError(f"{store.path}: trial {trial} has no valid frame.", "Choose another trial.")
    truth = store.truth(trial)
    measured = store.responses(trial) if store.labels[trial] else None
    shown = truth if measured is None else measured
    neurons = [] if shown is None else choose_neurons(shown)
    heights = [_strip_height(store), 0.8, 0.8, 0.8, *([0.75] * max(1, len(neurons)))]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.2))
    strip, *traces = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_strip(strip, store.view("videos", trial))
    _head(figure, store)
    strip.set_title(f"Trial {trial}, {store.tiers[trial]}")
    _draw_states(traces[:3], store.states(trial))
    for axes, neuron in zip(traces[3:], neurons, strict=False):
        _draw_neuron(axes, neuron, store, measured, truth)
    if neurons:
        figure.legend(*traces[3].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    else:
        _print_instead(traces[3], "responses withheld")
        traces[3].set_xticks([0], ["0"])
    traces[-1].set_xlabel("time in the trial, s", loc="left")
    traces[-1].set_xlim(0, int(store.lengths[trial]) / FRAMES_PER_SECOND)
    return figure


def _strip_height(store: MouseStore) -> float:
    height, width = store.frame_shape
    return (_WIDTH - 1.0) * height / (_TILES * (width + _GAP)) + 0.1


def _draw_strip(axes: Axes, video: npt.NDArray[np.float32 | np.uint8]) -> None:
    """Tile the middle frames of equal parts of the trial, each standing over its part of the time axis."""
    frames, height, _ = video.shape
    duration = frames / FRAMES_PER_SECOND
    chosen = video[(np.arange(_TILES) * 2 + 1) * frames // (2 * _TILES)]
    # (T, H, W) -> (H, T * (W + gap)), white between the tiles
    padded = np.pad(chosen, ((0, 0), (0, 0), (_GAP // 2, _GAP // 2)), constant_values=255)
    tiled = padded.transpose(1, 0, 2).reshape(height, -1)
    axes.imshow(tiled, cmap="gray", vmin=0, vmax=255, extent=(0, duration, 0, 1), aspect="auto")
    axes.set_yticks([])
    axes.tick_params(bottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set_ylabel("video", rotation=0, ha="right", va="center")
    axes.yaxis.set_label_coords(-0.065, 0.5)


def _draw_states(panels: list[Axes], states: npt.NDArray[np.float32]) -> None:
    """Draw the pupil's dilation, the running speed and the pupil's centre (L, 4), one panel each."""
    seconds = np.arange(len(states)) / FRAMES_PER_SECOND
    for axes, name, values in zip(panels, ("pupil\ndilation", "running\nspeed"), states.T, strict=False):
        axes.plot(seconds, values, color=_DARK, linewidth=1.1)
        _name(axes, name)
    centre = states[:, 2:] - states[:, 2:].mean(axis=0)
    for label, color, values in zip("xy", (_LABELLED, _SECOND), centre.T, strict=True):
        panels[2].plot(seconds, values, color=color, linewidth=1.1, label=label)
    panels[2].legend(loc="upper right", ncols=2, handlelength=1, borderaxespad=0, fontsize=8)
    _name(panels[2], "pupil centre\nless its mean")


def _draw_neuron(
    axes: Axes,
    neuron: int,
    store: MouseStore,
    measured: npt.NDArray[np.float32] | None,
    truth: npt.NDArray[np.float32] | None,
) -> None:
    if measured is not None:
        seconds = np.arange(len(measured)) / FRAMES_PER_SECOND
        axes.fill_between(seconds, measured[:, neuron], color=_LABELLED, alpha=0.55, linewidth=0, label="measured")
    if truth is not None:
        seconds = np.arange(len(truth)) / FRAMES_PER_SECOND
        axes.plot(seconds, truth[:, neuron], color=_DARK, linewidth=0.9, label="noiseless rate")
    if store.non_negative:
        axes.set_ylim(bottom=0)
    _name(axes, f"unit {store.unit_ids[neuron]}")


def _name(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
    axes.yaxis.set_label_coords(-0.065, 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(2))
