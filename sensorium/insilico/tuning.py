"""Tuning to drifting gratings: what is shown, and the indices computed from the responses.

Angles are those of `sensorium.gratings`. n neurons, D directions, L frames, h w pixels.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sensorium.gratings import CONDITION, Condition, grating
from sensorium.insilico.session import Advance, Outcome
from sensorium.insilico.subject import Subject, float_array

Float64Array = NDArray[np.float64]

_FLAT = 1e-6
"""Relative change over direction below which a curve is flat."""
_MOVIES = 8
"""Movies shown at once."""


@dataclass(frozen=True)
class Gratings:
    """Drifting gratings: all directions and frequencies at full contrast, then lower contrasts of the best."""

    directions: Sequence[float]
    """Degrees, equally spaced over the circle, an even number of them."""
    spatial_frequencies: Sequence[float] = (0.4, 0.7, 1.0, 1.4, 2.0)
    """Cycles per height of the frame."""
    temporal_frequencies: Sequence[float] = (1.0, 2.0, 4.0, 6.0)
    """Hz."""
    contrasts: Sequence[float] = (0.1, 0.2, 0.4, 0.7)
    """Michelson contrasts besides the full one."""
    frames: int = 45
    onset: int = 15
    """Frames after the start that are left out of the mean response; the rest are whole cycles of every frequency."""

    @classmethod
    def every(cls, count: int) -> "Gratings":
        """Gratings of `count` directions."""
        return cls([360 * number / count for number in range(count)])

    @property
    def described(self) -> dict[str, Any]:
        """The set as plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def conditions(self) -> list[Condition]:
        """Direction, spatial and temporal frequency, contrast of each movie of full contrast."""
        sets = (self.directions, self.spatial_frequencies, self.temporal_frequencies, [1.0])
        return [(direction, space, time, one) for direction, space, time, one in itertools.product(*sets)]


def measure(subject: Subject, advance: Advance, gratings: Gratings, shape: tuple[int, int]) -> Outcome:
    """Show the gratings; then lower contrasts of each that is some neuron's best.

    Args:
        subject: who is shown them.
        advance: told what share is done.
        gratings: what is shown.
        shape: rows and columns of a frame, pixels.

    Returns:
        Tables: `responses`, mean response by `CONDITION` and neuron; `contrast`, the same over contrast for the best
        direction and frequencies; `summary`, see `summarise`.
    """
    responses = _show(subject, gratings.conditions, gratings, shape, lambda share: advance(0.8 * share))
    summary = summarise(responses)
    best = summary.dropna(subset=["preferred_direction"])
    preferred = best[["preferred_direction", "spatial_frequency", "temporal_frequency"]]
    kinds = [tuple(row) for row in preferred.drop_duplicates().itertuples(index=False)]
    weaker = [(*kind, contrast) for kind in kinds for contrast in gratings.contrasts]
    shown = _show(subject, weaker, gratings, shape, lambda share: advance(0.2 * share))
    own = best.rename(columns={"preferred_direction": "direction"})[["neuron", *CONDITION[:-1]]]
    contrast = pd.concat([shown, responses]).merge(own).sort_values(["neuron", "contrast"], ignore_index=True)
    return Outcome({"responses": responses, "contrast": contrast, "summary": summary})


def _show(
    subject: Subject, conditions: Sequence[Condition], gratings: Gratings, shape: tuple[int, int], advance: Advance
) -> pd.DataFrame:
    """Mean response to every grating; columns `CONDITION`, `neuron` and `response`."""
    means = [np.zeros((0, subject.neurons))]
    with torch.no_grad():
        for first in range(0, len(conditions), _MOVIES):
            shown = [grating(condition, gratings.frames, shape) for condition in conditions[first : first + _MOVIES]]
            means.append(float_array(subject(torch.stack(shown))[:, :, gratings.onset :].mean(2)))
            advance(len(shown) / len(conditions))
    values = np.array(conditions).reshape(-1, len(CONDITION))
    table = pd.DataFrame(np.repeat(values, subject.neurons, axis=0), columns=CONDITION)
    table["neuron"] = np.tile(np.arange(subject.neurons), len(conditions))
    table["response"] = np.concatenate(means).ravel()
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
    """Preferences and indices of each neuron, from the responses to gratings of one contrast.

    The tuning curve is that over direction at the spatial and temporal frequency of the largest response modulation
    (standard deviation over direction). Definitions, as compared by Mazurek, Kager & Van Hooser 2014
    (https://doi.org/10.3389/fncir.2014.00092):

    * `preferred_direction`: of the largest response. `preferred_orientation`: of the bars, the angle of the vector
      sum in double-angle space, divided by two, plus 90 degrees.
    * `osi`: 1 - circular variance over orientation, |sum R exp(2 i theta)| / sum R (Ringach, Shapley & Hawken 2002,
      https://doi.org/10.1523/JNEUROSCI.22-13-05639.2002). `dsi`: the same over direction, |sum R exp(i theta)| / sum R.
    * `osi_peak`: (R_pref - R_orth) / (R_pref + R_orth), R_orth the mean of the two orthogonal directions.
      `dsi_peak`: (R_pref - R_null) / (R_pref + R_null), R_null of the opposite direction.
    * `speed`: temporal over spatial frequency, frame heights per second.

    Returns:
        One row per neuron; a neuron whose curve is flat has the indices 0 and no preferences (NaN).
    """
    rows = []
    for neuron, own in table.groupby("neuron"):
        curves = own.pivot_table(index=CONDITION[1:3], columns="direction", values="response")
        values = curves.to_numpy()
        best = int(values.std(axis=1).argmax())
        space, time = curves.index.to_frame().to_numpy()[best]
        directions, responses = curves.columns.to_numpy(), np.maximum(values[best], 0)
        found = {"neuron": neuron, "spatial_frequency": space, "temporal_frequency": time, "speed": time / space}
        rows.append(found | _indices(directions, responses))
    return pd.DataFrame(rows)


def _indices(directions: Float64Array, responses: Float64Array) -> dict[str, float]:
    top, count = int(responses.argmax()), len(responses)
    preferred, null = responses[top], responses[(top + count // 2) % count]
    found = {"largest_response": float(preferred)}
    if np.ptp(responses) <= _FLAT * max(preferred, 1e-12):
        unknown = dict.fromkeys(("preferred_direction", "preferred_orientation"), np.nan)
        return found | unknown | dict.fromkeys(("osi", "dsi", "osi_peak", "dsi_peak"), 0.0)
    vector = resultant(responses, directions, 2)
    across = np.interp([directions[top] + 90, directions[top] - 90], directions, responses, period=360).mean()
    return found | {
        "preferred_direction": float(directions[top]),
        "preferred_orientation": float((np.rad2deg(np.angle(vector)) / 2 + 90) % 180),
        "osi": abs(vector),
        "dsi": abs(resultant(responses, directions, 1)),
        "osi_peak": float((preferred - across) / (preferred + across)),
        "dsi_peak": float((preferred - null) / (preferred + null)),
    }
