"""How behaviour scales responses: the mouse's own videos, shown while the animal does other things.

n neurons, Q quantiles, L frames, h w pixels.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sensorium.data.store import MouseStore
from sensorium.insilico.session import Advance, Outcome
from sensorium.insilico.subject import STATES, Subject, float_array

Float64Array = NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of what the animal did in the training trials; the middle one is what everything is compared with."""
COMPONENTS = {"pupil": 0, "running": 1}
"""Component of the state by name; see `sensorium.insilico.subject.STATES`."""
_MIDDLE = QUANTILES.index(0.5)
_FRAMES = 90
_SETTLED = 30  # frames before this one are not used: the first windows have seen too little


def training_states(store: MouseStore) -> Float64Array:
    """Quantiles (Q, 4) of behaviour and pupil centre over all frames of the training trials."""
    trials = np.flatnonzero(store.tiers == "train")
    seen = np.concatenate([store.states(int(trial)) for trial in trials])
    values: Float64Array = np.quantile(seen.astype(np.float64), QUANTILES, axis=0)
    return values


def clips(store: MouseStore, count: int) -> torch.Tensor:
    """The beginning (B, L, h, w) of some training trials' videos, equally spaced over the recording."""
    trials = np.flatnonzero(store.tiers == "train")
    chosen = trials[np.unique(np.linspace(0, len(trials) - 1, min(count, len(trials))).astype(int))]
    frames = min(_FRAMES, int(store.lengths[chosen].min()))
    return torch.from_numpy(np.stack([store.video(int(trial), 0, frames) for trial in chosen]).astype(np.float32))


def measure(subject: Subject, advance: Advance, movies: torch.Tensor, quantiles: Float64Array) -> Outcome:
    """Responses to the same movies in every state.

    One component of the state at a time takes its quantiles, the others keep their median. The responses r of a state
    are regressed on those in the median state, r0: r = gain r0 + offset, by least squares over all movies and frames.
    A pure change of gain has the offset 0 (Niell & Stryker 2010, https://doi.org/10.1016/j.neuron.2010.01.033, find it
    for running).

    Args:
        subject: who is shown them.
        advance: told what share is done.
        movies: (B, L, h, w).
        quantiles: (Q, 4), see `training_states`.

    Returns:
        Tables: `states`, by neuron, component and quantile the value of the component, mean response, gain and
        offset; `summary`, by neuron the modulation index of each component, (R_high - R_low) / (R_high + R_low) of
        the mean responses at the highest and the lowest quantile, and the gain between these two, `*_gain`.
    """
    steps = len(COMPONENTS) * len(QUANTILES)
    median = _responses(subject, movies, quantiles[_MIDDLE])
    parts = []
    for name, component in COMPONENTS.items():
        for quantile, values in zip(QUANTILES, quantiles, strict=True):
            state = quantiles[_MIDDLE].copy()
            state[component] = values[component]
            responses = _responses(subject, movies, state)
            gain, offset = _regress(median, responses)
            parts.append(
                pd.DataFrame(
                    {
                        "neuron": np.arange(subject.neurons),
                        "component": name,
                        "quantile": quantile,
                        "value": values[component],
                        "response": responses.mean(axis=1),
                        "gain": gain,
                        "offset": offset,
                    }
                )
            )
            advance(1 / steps)
    states = pd.concat(parts, ignore_index=True).sort_values("neuron", kind="stable", ignore_index=True)
    return Outcome({"states": states, "summary": summarise(states)})


def _responses(subject: Subject, movies: torch.Tensor, state: Float64Array) -> Float64Array:
    """Responses (n, frames) to all movies, one after the other, in one state (4,)."""
    given = torch.from_numpy(state.astype(np.float32))
    with torch.no_grad():
        found = [float_array(subject(movie[None], given))[0, :, _SETTLED:] for movie in movies]
    return np.concatenate(found, axis=1)


def _regress(reference: Float64Array, responses: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Slope and offset (n,) of responses (n, frames) over those of reference; NaN where the latter do not vary."""
    mean, other = reference.mean(axis=1), responses.mean(axis=1)
    centred = reference - mean[:, None]
    variance = (centred * centred).mean(axis=1)
    variance[variance <= 1e-12] = np.nan
    gain: Float64Array = (centred * (responses - other[:, None])).mean(axis=1) / variance
    return gain, other - gain * mean


def summarise(states: pd.DataFrame) -> pd.DataFrame:
    """Modulation index and gain of each neuron by component, from the table `states` of `measure`."""
    columns: dict[str, Sequence[float] | NDArray[np.float64]] = {}
    for name in COMPONENTS:
        own = states[states["component"] == name].pivot_table(
            index="neuron", columns="quantile", values=["response", "gain"], dropna=False
        )
        low, high = (own["response"][quantile].to_numpy() for quantile in (QUANTILES[0], QUANTILES[-1]))
        with np.errstate(invalid="ignore", divide="ignore"):
            columns[f"{name}_index"] = (high - low) / (high + low)
            columns[f"{name}_gain"] = (own["gain"][QUANTILES[-1]] / own["gain"][QUANTILES[0]]).to_numpy()
    return pd.DataFrame({"neuron": np.unique(states["neuron"]), **columns})


def component_label(name: str) -> str:
    """Name of a component for axes, such as `running speed`."""
    return STATES[COMPONENTS[name]]
