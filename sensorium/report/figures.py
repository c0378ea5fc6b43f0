"""The figures of the report; each function draws one.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers tell
apart and a grey printer keeps apart.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sensorium.mice import FRAMES_PER_SECOND, short_name
from sensorium.report.material import SCORE, Material, bootstrap

COLORS: Mapping[str, str] = {
    "teacher": "#0072B2",
    "student": "#D55E00",
    "ensemble": "#009E73",
    "ceiling": "#7F7F7F",
    "measured": "#BBBBBB",
}

STYLE: dict[Any, Any] = {
    "figure.dpi": 144,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}

_WIDTH = 7.6
"""Inches; the page shows figures at this width on paper."""

_BINS = (15, 50)
"""Fewest and most bins of the histogram over neurons."""

_STRIP = 10
"""Pictures in the film strip."""

Draw = Callable[[Material, int], Figure]


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col")
    return figure, list(axes.flat)


def scores_by_mouse(material: Material, seed: int) -> Figure:
    """A point a mouse and source, with the bootstrap interval over neurons."""
    mice, sources = material.mice, material.sources
    figure, (axes,) = _figure(1.1 + 0.55 * len(mice))
    for row, mouse in enumerate(mice):
        for column, source in enumerate(sources):
            values = material.correlations(mouse, source)
            low, high = bootstrap(values, seed, row, column)
            y = row + (column - (len(sources) - 1) / 2) * 0.17
            label = source if row == 0 else None
            axes.plot([low, high], [y, y], color=COLORS[source], linewidth=2.2, solid_capstyle="butt")
            axes.plot(values.mean(), y, "o", color=COLORS[source], markersize=5, label=label)
    axes.set_yticks(range(len(mice)), [short_name(mouse) for mouse in mice])
    axes.set_ylim(len(mice) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("single-trial correlation, out of fold")
    figure.legend(loc="outside upper left", ncols=len(sources))
    return figure


def distribution(material: Material, _seed: int) -> Figure:
    """Share of the neurons over correlation, an outline a source."""
    figure, (axes,) = _figure(2.7)
    by_source = {
        source: material.neurons.loc[material.neurons["source"] == source, SCORE].to_numpy()
        for source in material.sources
    }
    pool = np.concatenate(list(by_source.values()))
    bins = int(np.clip(2 * np.sqrt(len(pool) / len(by_source)), *_BINS))
    edges = np.histogram_bin_edges(pool, bins)
    for source, values in by_source.items():
        shares = np.histogram(values, edges)[0] / len(values)
        if source == "ensemble":
            axes.stairs(shares, edges, color=COLORS[source], fill=True, alpha=0.15)
        axes.stairs(shares, edges, color=COLORS[source], linewidth=1.6, label=source)
        axes.axvline(values.mean(), color=COLORS[source], linewidth=1.1, linestyle=":")
    axes.set_xlabel("single-trial correlation of a neuron")
    axes.set_ylabel("share of the neurons")
    figure.legend(loc="outside upper left", ncols=len(by_source))
    return figure


def example_traces(material: Material, _seed: int) -> Figure:
    """Measured and predicted responses of three neurons."""
    figure, panels = _figure(1.6 * len(material.traces) + 0.4, rows=len(material.traces))
    for axes, trace in zip(panels, material.traces, strict=True):
        axes.fill_between(trace.seconds, trace.measured, color=COLORS["measured"], linewidth=0, label="measured")
        if trace.noiseless is not None:
            axes.plot(trace.seconds, trace.noiseless, color="#333333", linewidth=0.9, linestyle="--", label="noiseless")
        axes.plot(trace.seconds, trace.predicted, color=COLORS["ensemble"], linewidth=1.5, label="predicted")
        unscored = material.first_frame / FRAMES_PER_SECOND
        axes.axvspan(0, unscored, color="#FFFFFF", alpha=0.55, linewidth=0, zorder=3)
        axes.axvline(unscored, color="#999999", linewidth=0.8, linestyle=":", zorder=4)
        axes.set_title(f"{trace.label} neuron, unit {trace.unit}: r = {trace.correlation:.2f} over all trials")
        axes.set_ylabel("response")
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
    panels[-1].set_xlabel("time in the trial, s")
    figure.align_ylabels()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


def learning_curves(material: Material, _seed: int) -> Figure:
    """Training loss and validation correlation by epoch, a line a fold."""
    figure, panels = _figure(2.7, columns=2)
    columns = {"train_loss": "training loss", "val_correlation": "validation correlation"}
    colors = (COLORS["teacher"], COLORS["student"], COLORS["ensemble"])
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        for color, (experiment, folds) in zip(colors, material.histories.items(), strict=False):
            for number, history in enumerate(folds.values()):
                label = experiment if number == 0 else None
                axes.plot(history["epoch"], history[column], color=color, linewidth=1.1, alpha=0.8, label=label)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if any(material.histories.values()):
        panels[1].legend()
    else:
        panels[1].text(0.5, 0.5, "trained elsewhere", ha="center", va="center", transform=panels[1].transAxes)
    return figure


def folds(material: Material, _seed: int) -> Figure:
    """Labelled trials by fold and mouse, and the score of each fold."""
    figure, panels = _figure(3.1, columns=2)
    counts = material.folds["trials_by_fold"]
    bottom = np.zeros(material.folds["folds"])
    shades = mpl.colormaps["Blues"](np.linspace(0.3, 0.9, len(counts)))
    for shade, (mouse, trials) in zip(shades, counts.items(), strict=True):
        panels[0].bar(range(len(trials)), trials, bottom=bottom, color=shade, label=short_name(mouse))
        bottom += trials
    panels[0].set_title("labelled trials")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=5, fontsize=7)
    scored = material.scores.query("mouse == 'all' and tier == 'all' and fold != 'all'")
    for source in material.sources:
        rows = scored[scored["source"] == source].sort_values("fold")
        panels[1].plot(rows["fold"].astype(int), rows[SCORE], "o-", color=COLORS[source], linewidth=1, label=source)
    panels[1].set_title("single-trial correlation")
    panels[1].legend()
    for axes in panels:
        axes.set_xlabel("fold")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_responses(video: NDArray[np.float32], responses: NDArray[np.float32], title: str) -> Figure:
    """A film strip of a video, and the predicted responses below it.

    Args:
        video: (L, rows, columns) grey levels.
        responses: (N, L).
        title: stands above.
    """
    seconds = len(video) / FRAMES_PER_SECOND
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 5.2))
        strip, raster, mean = figure.subplots(3, 1, height_ratios=(1, 3, 1.2), sharex=True)
        moments = np.linspace(0, len(video) - 1, _STRIP).round().astype(int)
        gap = max(1, video.shape[2] // 30)
        pictures = np.concatenate([np.pad(video[m], ((0, 0), (0, gap)), constant_values=255) for m in moments], axis=1)
        strip.imshow(pictures, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=(0, seconds, 0, 1))
        strip.set_yticks([])
        strip.set_title(title)
        peaks = responses / np.maximum(responses.max(1, keepdims=True), np.finfo(np.float32).tiny)
        order = np.argsort(peaks.argmax(1), kind="stable")
        extent = (0, seconds, len(responses), 0)
        raster.imshow(peaks[order], cmap="magma", aspect="auto", extent=extent, interpolation="nearest")
        raster.set_ylabel("neuron, by time of its peak")
        mean.plot((np.arange(len(video)) + 0.5) / FRAMES_PER_SECOND, responses.mean(0), color=COLORS["student"])
        mean.set_ylabel("mean response")
        mean.set_xlabel("time, s")
        for axes in (strip, raster):
            axes.grid(visible=False)
        strip.tick_params(length=0)
        figure.align_ylabels()
    return figure


FIGURES: Mapping[str, Draw] = {
    "scores": scores_by_mouse,
    "neurons": distribution,
    "traces": example_traces,
    "training": learning_curves,
    "folds": folds,
}
"""What draws each figure, by file stem."""


def draw_all(material: Material, seed: int) -> Iterator[tuple[str, Figure]]:
    """Draw every figure.

    Yields:
        File stem and figure.
    """
    with mpl.rc_context(STYLE):
        for name, draw in FIGURES.items():
            yield name, draw(material, seed)
