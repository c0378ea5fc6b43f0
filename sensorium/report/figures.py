"""The figures of the report; each function draws one.

Every experiment has its own colour and marker, whatever their number. The colours are those of Okabe and
Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can distinguish, and two of Tol's "muted"
scheme (https://personal.sron.nl/~pault/).
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sensorium.mice import FRAMES_PER_SECOND, short_name
from sensorium.report.material import ALL, SINGLE_TRIAL, Material, bootstrap

PREDICTED, MEASURED, NOISELESS = "#009E73", "#BBBBBB", "#333333"
_COLORS = ("#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00", "#882255", "#999933")
_MARKERS = "osD^vP"
"""Their number and that of the colours have no common divisor, so that pairs repeat after their product only."""
_DERIVED: Mapping[str, dict[str, str]] = {
    "ensemble": {"color": PREDICTED, "marker": "*"},
    "pair": {"color": "#44AA99", "marker": "X"},
    "equal_weights": {"color": "#117733", "marker": "d"},
    "ceiling": {"color": "#7F7F7F", "marker": "|"},
}
"""Colour and marker of what is no experiment."""
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
_ROW = 0.15
"""Inches; the height of a line of small print."""
_PANELS = 4
"""Mice side by side."""
_BINS = (15, 50)
"""Fewest and most bins of the histogram over neurons."""
_STRIP = 10
"""Pictures in the film strip."""


def _figure(height: float, rows: int = 1, columns: int = 1, **shared: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **({"sharex": "col"} | shared))
    return figure, list(axes.flat)


def _styles(material: Material) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of every source."""
    found = dict(_DERIVED)
    for number, name in enumerate(material.histories):
        dashes = ("-", "--", ":")[number // len(_COLORS) % 3]
        marker = _MARKERS[number % len(_MARKERS)]
        found[name] = {"color": _COLORS[number % len(_COLORS)], "marker": marker, "linestyle": dashes}
    return {source: found[source] for source in material.sources}


def scores_by_mouse(material: Material, seed: int) -> Figure:
    """A panel per mouse, in it one row per source: its score, and the bootstrap interval over neurons."""
    panels, styles = [ALL, *material.mice], _styles(material)
    columns = min(_PANELS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _figure(0.5 + rows * (0.5 + _ROW * len(styles)), rows, columns, sharex=True, sharey=True)
    for number, (mouse, panel) in enumerate(zip(panels, axes, strict=False)):
        for row, (source, style) in enumerate(styles.items()):
            values = material.correlations(mouse, source)
            if len(values):
                low, high = bootstrap(values, seed, number, row)
                panel.plot([low, high], [row, row], color=style["color"], linewidth=1.6)
                panel.plot(values.mean(), row, style["marker"], color=style["color"], markersize=4.5)
        panel.set_title("all neurons" if mouse == ALL else short_name(mouse), fontsize=8)
        panel.tick_params(axis="y", length=0, labelsize=7)
        panel.tick_params(axis="x", labelsize=8, labelbottom=number + columns >= len(panels))
        panel.xaxis.set_major_locator(MaxNLocator(4))
    axes[0].set_yticks(range(len(styles)), list(styles))
    axes[0].set_ylim(len(styles) - 0.5, -0.5)
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    figure.supxlabel("single-trial correlation, out of fold", fontsize=9)
    return figure


def distribution(material: Material) -> Figure:
    """Share of the neurons over correlation, an outline per source on a line of its own."""
    styles = _styles(material)
    figure, (axes,) = _figure(0.7 + 2.4 * _ROW * len(styles))
    by_source = {source: material.correlations(ALL, source) for source in styles}
    pool = np.concatenate(list(by_source.values()))
    edges = np.histogram_bin_edges(pool, int(np.clip(2 * np.sqrt(len(pool) / len(styles)), *_BINS)))
    shares = {source: np.histogram(values, edges)[0] / len(values) for source, values in by_source.items()}
    highest = max(float(share.max()) for share in shares.values())
    for row, (source, share) in enumerate(shares.items()):
        color, outline = styles[source]["color"], row - 0.9 * share / highest
        axes.stairs(outline, edges, baseline=row, color=color, fill=True, alpha=0.25)
        axes.stairs(outline, edges, baseline=row, color=color, linewidth=1.2)
        mean = by_source[source].mean()
        axes.plot([mean, mean], [row, row - 0.95], color=color, linewidth=1.6)
        axes.annotate(f"{mean:.3f}", (1.01, row - 0.15), xycoords=("axes fraction", "data"), fontsize=8)
    axes.set_yticks(range(len(styles)), list(styles))
    axes.set_ylim(len(styles) - 0.8, -1.1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("single-trial correlation of a neuron")
    return figure


def example_traces(material: Material) -> Figure:
    """Measured and predicted responses of three neurons."""
    figure, panels = _figure(1.6 * len(material.traces) + 0.4, rows=len(material.traces))
    for axes, trace in zip(panels, material.traces, strict=True):
        axes.fill_between(trace.seconds, trace.measured, color=MEASURED, linewidth=0, label="measured")
        if trace.noiseless is not None:
            axes.plot(trace.seconds, trace.noiseless, color=NOISELESS, linewidth=0.9, linestyle="--", label="noiseless")
        axes.plot(trace.seconds, trace.predicted, color=PREDICTED, linewidth=1.5, label="predicted")
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


def learning_curves(material: Material) -> Figure:
    """Training loss and validation correlation by epoch: a line per experiment, and the range of its folds."""
    styles = _styles(material)
    histories = {name: pd.concat(folds.values()) for name, folds in material.histories.items() if folds}
    figure, panels = _figure(2.6 + _legend_height(histories, _PANELS), columns=2)
    columns = {"train_loss": "training loss", "val_correlation": "validation correlation"}
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        for name, rows in histories.items():
            by_epoch = rows.groupby("epoch")[column]
            low, mean, high = by_epoch.min(), by_epoch.mean(), by_epoch.max()
            axes.fill_between(mean.index, low, high, color=styles[name]["color"], alpha=0.12, linewidth=0)
            axes.plot(mean.index, mean, **styles[name], linewidth=1.3, markersize=4, label=name)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if histories:
        entries = panels[0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower center", ncols=_PANELS, fontsize=7)
    else:
        panels[1].text(0.5, 0.5, "trained elsewhere", ha="center", va="center", transform=panels[1].transAxes)
    return figure


def _legend_height(entries: Collection[str], columns: int) -> float:
    """Inches that a legend below a figure takes."""
    return 0.1 + _ROW * -(-len(entries) // columns)


def folds(material: Material) -> Figure:
    """Labelled trials by fold and mouse, and the score of each fold."""
    counts, styles = material.folds["trials_by_fold"], _styles(material)
    figure, panels = _figure(2.6 + _legend_height(max(counts, styles, key=len), _PANELS // 2), columns=2)
    bottom = np.zeros(material.folds["folds"])
    shades = mpl.colormaps["Blues"](np.linspace(0.3, 0.9, len(counts)))
    for shade, (mouse, trials) in zip(shades, counts.items(), strict=True):
        panels[0].bar(range(len(trials)), trials, bottom=bottom, color=shade, label=short_name(mouse))
        bottom += trials
    panels[0].set_title("labelled trials")
    scored = material.scores.query("mouse == @ALL and tier == @ALL and fold != @ALL")
    for source, style in styles.items():
        rows = scored[scored["source"] == source].sort_values("fold")
        panels[1].plot(rows["fold"].astype(int), rows[SINGLE_TRIAL], **style, linewidth=1, markersize=5, label=source)
    panels[1].set_title("single-trial correlation")
    for axes in panels:
        axes.set_xlabel("fold")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=_PANELS // 2, fontsize=7)
    return figure


def draw_responses(video: NDArray[np.float32], responses: NDArray[np.float32], title: str) -> Figure:
    """A film strip of a video, and the predicted responses below it.

    Args:
        video: (L, rows, columns) grey levels.
        responses: (N, L).
        title: of the figure.
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
        mean.plot((np.arange(len(video)) + 0.5) / FRAMES_PER_SECOND, responses.mean(0), color=PREDICTED)
        mean.set_ylabel("mean response")
        mean.set_xlabel("time, s")
        for axes in (strip, raster):
            axes.grid(visible=False)
        strip.tick_params(length=0)
        figure.align_ylabels()
    return figure


def draw_all(material: Material, seed: int) -> Iterator[tuple[str, Figure]]:
    """Draw every figure.

    Yields:
        File stem and figure.
    """
    with mpl.rc_context(STYLE):
        yield "scores", scores_by_mouse(material, seed)
        yield "neurons", distribution(material)
        yield "traces", example_traces(material)
        yield "training", learning_curves(material)
        yield "folds", folds(material)
