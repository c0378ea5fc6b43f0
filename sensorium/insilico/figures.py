"""The figures of the experiments in silico."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from sensorium.insilico.session import Picture
from sensorium.insilico.state import COMPONENTS, component_label
from sensorium.report.figures import PREDICTED, STYLE

_WIDTH = 7.6
_EXAMPLES = 8
"""Neurons that a figure shows one by one."""
_COLUMNS = 4
_COLOR = "#0072B2"


def grid(panels: int, height: float, columns: int = _COLUMNS) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in rows, `height` inches each."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(_WIDTH, height * rows))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, axes[:panels]


def examples(ranked: pd.Series, count: int = _EXAMPLES) -> list[int]:
    """Neurons at equal steps of a ranking, the largest value first: index of the series."""
    order = ranked.dropna().sort_values(ascending=False).index.to_numpy()
    return [int(order[at]) for at in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))]


_DIRECTION = (
    "Mean response by direction of movement, at the frequencies of the largest modulation; neurons at equal steps of "
    "the orientation selectivity index, the most selective first."
)
_FREQUENCY = (
    "The same neurons at their preferred direction: spatial frequency (cycles per frame height), at the preferred "
    "temporal frequency; temporal frequency (Hz), at the preferred spatial one; and contrast."
)
_POPULATION = (
    "Orientation of the preferred bars (90 is vertical); selectivity indices, 1 - circular variance; preferred speed, "
    "frame heights per second."
)


@mpl.rc_context(STYLE)
def of_tuning(tables: Mapping[str, pd.DataFrame]) -> Sequence[Picture]:
    """Curves over direction, frequencies and contrast; preferences and indices of all neurons."""
    summary = tables["summary"].set_index("neuron")
    chosen = examples(summary["osi"])
    return [
        Picture("Direction", _DIRECTION, _directions(tables["responses"], summary, chosen)),
        Picture("Frequency and contrast", _FREQUENCY, _other_curves(tables, summary, chosen)),
        Picture("All neurons", _POPULATION, _distributions(summary)),
    ]


def _best(responses: pd.DataFrame, summary: pd.DataFrame, neuron: int, free: str) -> pd.DataFrame:
    """A neuron's responses where all but one property are the preferred ones."""
    own = responses[responses["neuron"] == neuron]
    preferred = summary.loc[neuron].rename({"preferred_direction": "direction"})
    for name in {"direction", "spatial_frequency", "temporal_frequency"} - {free}:
        own = own[own[name] == preferred[name]]
    return own.sort_values(free)


def _directions(responses: pd.DataFrame, summary: pd.DataFrame, chosen: Sequence[int]) -> Figure:
    figure, panels = grid(len(chosen), 1.7)
    for axes, neuron in zip(panels, chosen, strict=True):
        curve = _best(responses, summary, neuron, "direction")
        axes.plot(curve["direction"], curve["response"], "o-", color=_COLOR, markersize=3)
        axes.set_title(f"neuron {neuron}: OSI {summary['osi'][neuron]:.2f}", fontsize=8)
        axes.set_xticks([0, 90, 180, 270])
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
    figure.supxlabel("direction, degrees", fontsize=9)
    figure.supylabel("mean response", fontsize=9)
    return figure


def _other_curves(tables: Mapping[str, pd.DataFrame], summary: pd.DataFrame, chosen: Sequence[int]) -> Figure:
    figure, panels = grid(3, 2.4, columns=3)
    contrast = tables["contrast"]
    for number, neuron in enumerate(chosen):
        color = mpl.colormaps["viridis"](number / len(chosen))
        for axes, name in zip(panels, ("spatial_frequency", "temporal_frequency", "contrast"), strict=True):
            own = contrast[contrast["neuron"] == neuron]
            curve = own if name == "contrast" else _best(tables["responses"], summary, neuron, name)
            largest = curve["response"].max()
            axes.plot(curve[name], curve["response"] / largest, "o-", color=color, markersize=3, label=str(neuron))
            axes.set_xlabel(name.replace("_", " "))
    panels[0].set_ylabel("response / largest")
    panels[2].legend(title="neuron", fontsize=6, title_fontsize=6)
    return figure


def _distributions(summary: pd.DataFrame) -> Figure:
    figure, panels = grid(3, 2.2, columns=3)
    panels[0].hist(summary["preferred_orientation"].dropna(), range(0, 181, 15), color=PREDICTED)
    panels[0].set_xticks([0, 45, 90, 135, 180])
    panels[0].set_xlabel("preferred orientation, degrees")
    panels[0].set_ylabel("neurons")
    for name, color in (("osi", _COLOR), ("dsi", "#D55E00")):
        panels[1].hist(summary[name], [step / 20 for step in range(21)], color=color, alpha=0.6, label=name.upper())
    panels[1].legend()
    panels[1].set_xlabel("selectivity index")
    speeds = summary["speed"].dropna()
    panels[2].hist(np.log2(speeds), color=PREDICTED)
    panels[2].set_xlabel("log2 preferred speed")
    return figure


_FIELDS = (
    "Linear receptive fields, averages over the temporal kernel: each neuron by white noise (above) and by the mean "
    "gradient of its response (below), red where brighter raises the response. Circles: one standard deviation of "
    "the fitted envelope. Neurons at equal steps of how much of the gradients the fit explains, the best first."
)
_POSITIONS = "Centres of all neurons by the gradient, and standard deviations of the envelopes by both methods."
_SHOWN = 6
"""Neurons in the figure of the fields."""


@mpl.rc_context(STYLE)
def of_receptive_fields(summary: pd.DataFrame, arrays: Mapping[str, NDArray[Any]]) -> Sequence[Picture]:
    """Fields of some neurons, positions and sizes of all."""
    methods = {name: own.reset_index(drop=True) for name, own in summary.groupby("method")}
    return [
        Picture("Fields", _FIELDS, _fields(methods, arrays)),
        Picture("Positions and sizes", _POSITIONS, _positions(methods, arrays["gradient"].shape[1:])),
    ]


def _fields(methods: Mapping[Any, pd.DataFrame], arrays: Mapping[str, NDArray[Any]]) -> Figure:
    chosen = examples(methods["gradient"]["explained"], _SHOWN)
    figure, panels = grid(2 * len(chosen), 1.2, columns=len(chosen))
    for line, name in enumerate(("noise", "gradient")):
        for axes, position in zip(panels[line * len(chosen) :], chosen, strict=False):
            field = arrays[name][position]
            column, row, sigma = methods[name][["column", "row", "sigma"]].to_numpy()[position]
            limit = float(np.abs(field).max())
            axes.imshow(field, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.add_patch(Circle((column, row), sigma, fill=False, color="black", linewidth=0.8))
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"neuron {methods[name]['neuron'][position]}" if line == 0 else "", fontsize=8)
    return figure


def _positions(methods: Mapping[Any, pd.DataFrame], shape: Sequence[int]) -> Figure:
    figure, (places, sizes) = grid(2, 2.4, columns=2)
    found = methods["gradient"]
    places.scatter(found["column"], found["row"], s=12, color=_COLOR, alpha=0.6, linewidths=0)
    places.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5), aspect="equal")
    places.set(xlabel="column, pixels", ylabel="row, pixels")
    for name, color in (("gradient", _COLOR), ("noise", "#D55E00")):
        sizes.hist(methods[name]["sigma"].dropna(), color=color, alpha=0.6, label=name)
    sizes.set(xlabel="standard deviation, pixels", ylabel="neurons")
    sizes.legend()
    return figure


_GAINS = (
    "Gain of the responses relative to the median state, by regression over the frames of the videos; a line per "
    "neuron, thick the median over neurons. The other components of the state are at their median."
)
_MODULATION = "Modulation index, (R_high - R_low) / (R_high + R_low), between the quantiles 0.95 and 0.05."


@mpl.rc_context(STYLE)
def of_states(tables: Mapping[str, pd.DataFrame]) -> Sequence[Picture]:
    """Gain curves by component, and the distribution of the modulation index."""
    figure, panels = grid(len(COMPONENTS), 2.6, columns=len(COMPONENTS))
    histogram, others = grid(len(COMPONENTS), 2.2, columns=len(COMPONENTS))
    for axes, bins, name in zip(panels, others, COMPONENTS, strict=True):
        own = tables["states"][tables["states"]["component"] == name]
        curves = own.pivot_table(index="value", columns="neuron", values="gain")
        axes.plot(curves.index, curves.to_numpy(), color="#999999", linewidth=0.5, alpha=0.5)
        axes.plot(curves.index, curves.median(axis=1), "o-", color=_COLOR, linewidth=2, markersize=4)
        axes.set_xlabel(component_label(name))
        bins.hist(tables["summary"][f"{name}_index"].dropna(), color=_COLOR)
        bins.set_xlabel(f"modulation index of {component_label(name)}")
    panels[0].set_ylabel("gain")
    others[0].set_ylabel("neurons")
    return [Picture("Gain", _GAINS, figure), Picture("Modulation", _MODULATION, histogram)]
