"""Tuning to drifting gratings: what is shown, and the indices computed from the responses.

Angles are in degrees, from the rightward direction (0) to the downward one (90), as rows count downwards. A grating
moves perpendicular to its bars: bars of orientation 90 (vertical) move in direction 0 or 180.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track

from sensorium.insilico.subject import GREY, Subject, float_array
from sensorium.mice import FRAMES_PER_SECOND

Float64Array = NDArray[np.float64]

CONDITION = ["direction", "spatial_frequency", "temporal_frequency", "contrast"]


@dataclass(frozen=True)
class Gratings:
    """A full set of drifting gratings: every combination is shown."""

    directions: Sequence[float]
    """Degrees, equally spaced over the circle, an even number of them."""
    spatial_frequencies: Sequence[float] = (0.5, 1.0, 2.0)
    """Cycles per height of the frame."""
    temporal_frequencies: Sequence[float] = (1.0, 2.0, 4.0)
    """Hz."""
    contrasts: Sequence[float] = (0.5, 1.0)
    """Michelson contrast."""
    frames: int = 45
    onset: int = 15
    """Frames after the start that are left out of the mean response."""

    @classmethod
    def every(cls, count: int) -> "Gratings":
        """Gratings of `count` directions."""
        return cls([360 * number / count for number in range(count)])

    @property
    def conditions(self) -> list[tuple[float, float, float, float]]:
        """Direction, spatial and temporal frequency, contrast of each movie."""
        return list(
            itertools.product(self.directions, self.spatial_frequencies, self.temporal_frequencies, self.contrasts)
        )


def grating(condition: tuple[float, float, float, float], frames: int, shape: tuple[int, int]) -> torch.Tensor:
    """A drifting sine grating (L, h, w), grey levels 0 to 255.

    Args:
        condition: direction (degrees), spatial frequency (cycles per frame height), temporal frequency (Hz), contrast.
        frames: L.
        shape: h and w.
    """
    direction, spatial, temporal, contrast = condition
    angle = np.deg2rad(direction)
    rows, columns = torch.meshgrid(*(torch.arange(size) / shape[0] for size in shape), indexing="ij")
    along = columns * np.cos(angle) + rows * np.sin(angle)
    seconds = torch.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    return GREY * (1 + contrast * torch.sin(2 * np.pi * (spatial * along - temporal * seconds)))


def measure(subject: Subject, gratings: Gratings, shape: tuple[int, int], batch: int) -> pd.DataFrame:
    """Mean response to every grating; columns `CONDITION`, `neuron` (index) and `response`.

    Args:
        subject: who is shown them.
        gratings: what is shown.
        shape: rows and columns of a frame, pixels.
        batch: movies shown at once.
    """
    conditions = gratings.conditions
    means = []
    with torch.no_grad():
        for first in track(range(0, len(conditions), batch), "Gratings", transient=True):
            shown = [grating(condition, gratings.frames, shape) for condition in conditions[first : first + batch]]
            means.append(float_array(subject(torch.stack(shown))[:, :, gratings.onset :].mean(2)))
    responses = np.concatenate(means)  # (conditions, N)
    table = pd.DataFrame(np.repeat(np.array(conditions), subject.neurons, axis=0), columns=CONDITION)
    table["neuron"] = np.tile(np.arange(subject.neurons), len(conditions))
    table["response"] = responses.ravel()
    return table


def resultant(responses: Float64Array, directions: Float64Array, harmonic: int) -> complex:
    """Normalised vector sum of a tuning curve (D,): sum R exp(i k theta) / sum R.

    Args:
        responses: not negative.
        directions: degrees.
        harmonic: k: 1 for direction, 2 for orientation.
    """
    total = responses.sum()
    return complex((responses * np.exp(1j * harmonic * np.deg2rad(directions))).sum() / total) if total > 0 else 0j


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Preferences and indices of each neuron, from the table of `measure`.

    The tuning curve is that over direction at the spatial and temporal frequency and contrast of the largest
    response modulation (standard deviation over direction). Definitions, as compared by Mazurek, Kager & Van
    Hooser 2014 (https://doi.org/10.3389/fncir.2014.00092):

    * `preferred_direction`: of the largest response. `preferred_orientation`: of the bars, the angle of the vector
      sum in double-angle space, divided by two, plus 90 degrees.
    * `osi`: 1 - circular variance, |sum R exp(2 i theta)| / sum R (Ringach, Shapley & Hawken 2002).
    * `dsi`: (R_pref - R_null) / (R_pref + R_null); null is the opposite direction.

    Returns:
        One row per neuron; a neuron whose curve is flat has the indices 0 and no preferences (NaN).
    """
    rows = []
    for neuron, own in table.groupby("neuron"):
        settings = own.groupby(CONDITION[1:])["response"]
        spread = settings.std(ddof=0)
        best = spread.idxmax()
        curve = own.set_index(CONDITION[1:]).loc[best].sort_values("direction")
        directions, responses = curve["direction"].to_numpy(), np.maximum(curve["response"].to_numpy(), 0)
        rows.append(
            {
                "neuron": neuron,
                **dict(zip(CONDITION[1:], np.atleast_1d(best), strict=True)),
                **_indices(directions, responses),
            }
        )
    return pd.DataFrame(rows)


def _indices(directions: Float64Array, responses: Float64Array) -> dict[str, float]:
    top = int(responses.argmax())
    preferred, null = responses[top], responses[(top + len(responses) // 2) % len(responses)]
    known = {"largest_response": float(preferred)}
    if np.ptp(responses) <= 1e-6 * max(preferred, 1e-12):
        return known | {"preferred_direction": np.nan, "preferred_orientation": np.nan, "osi": 0.0, "dsi": 0.0}
    vector = resultant(responses, directions, 2)
    return known | {
        "preferred_direction": float(directions[top]),
        "preferred_orientation": float((np.rad2deg(np.angle(vector)) / 2 + 90) % 180),
        "osi": abs(vector),
        "dsi": float((preferred - null) / (preferred + null)),
    }
