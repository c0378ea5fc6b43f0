"""Most exciting inputs: the image, or the movie, of a given contrast that drives a neuron most.

Gradient ascent on the pixels, as in inception loops (Walker et al. 2019, https://doi.org/10.1038/s41593-019-0517-x) and
in the control of visual neurons (Bashivan, Kar & DiCarlo 2019, https://doi.org/10.1126/science.aav9436). The contrast,
the root mean square deviation from mean grey, is held fixed, since almost any neuron answers more to more contrast.
Gaussian smoothing of the gradient is the prior: without it the result is full of high frequencies that drive the model
and mean nothing (Olah, Mordvintsev & Schubert 2017, https://doi.org/10.23915/distill.00007).

n neurons, S starts, L frames, h w pixels, C natural stimuli.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.gratings import GREY
from sensorium.insilico.session import Advance, Outcome
from sensorium.insilico.subject import Subject, float_array
from sensorium.seeding import generator

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_SHOWN = 32  # natural stimuli at once
_CLIPPINGS = 4  # of grey levels beyond 0..255, each followed by a correction of the contrast


@dataclass(frozen=True)
class Ascent:
    """How a stimulus is climbed to."""

    frames: int
    """Length L of the stimulus; the mean response over its second half is raised."""
    moving: bool
    """Whether the frames may differ: a movie, not an image."""
    steps: int = 40
    starts: int = 3
    """Random stimuli to start from; the best result counts."""
    rate: float = 0.5
    """Size of the first step, in units of the contrast; it falls linearly to a tenth."""
    smoothing: float = 2.0
    """Standard deviation of the gradient's blur, pixels; over time, of a movie, frames."""


@dataclass(frozen=True)
class Found:
    """The most exciting inputs of n neurons."""

    movies: Float32Array
    """(n, L, h, w) grey levels; one frame, L = 1, of images."""
    responses: Float64Array
    """(n, S) mean response to the best stimulus from each start."""
    dead: NDArray[np.bool_]
    """(n,) whether no pixel changes the response; the movie is the start then."""


def contrast(stimuli: torch.Tensor) -> torch.Tensor:
    """Contrast (B,) of stimuli (B, L, h, w): root mean square deviation from mean grey, grey levels."""
    return (stimuli - GREY).square().mean((1, 2, 3)).sqrt()


def with_contrast(stimuli: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Scale the deviation of stimuli (B, L, h, w) from grey to a contrast (B,), within grey levels 0 to 255.

    The contrast is a little less where pixels saturate. A grey stimulus stays grey.
    """
    for _ in range(_CLIPPINGS):
        factor = wanted / contrast(stimuli).clamp_min(1e-12)
        stimuli = (GREY + (stimuli - GREY) * factor[:, None, None, None]).clamp(0, 255)
    return stimuli


def blur(gradient: torch.Tensor, pixels: float, frames: float) -> torch.Tensor:
    """Gaussian smoothing of (..., L, h, w), standard deviations in pixels and frames."""
    sigma = (*(0.0 for _ in gradient.shape[:-3]), frames, pixels, pixels)
    smooth = gaussian_filter(gradient.cpu().numpy(), sigma, mode="nearest")
    return torch.from_numpy(smooth).to(gradient)


def mean_response(subject: Subject, stimuli: torch.Tensor, frames: int) -> torch.Tensor:
    """Response (B, N) to stimuli (B, L or 1, h, w), an image standing still for `frames`: mean of the second half."""
    shown = stimuli if stimuli.shape[1] == frames else stimuli.expand(-1, frames, -1, -1)
    return subject(shown)[:, :, frames // 2 :].mean(2)


def _starts(ascent: Ascent, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Smooth noise (S, L or 1, h, w), the same for every neuron."""
    length = ascent.frames if ascent.moving else 1
    draws = [generator(seed, "most exciting input", start) for start in range(ascent.starts)]
    noise = np.stack([draw.standard_normal((length, *shape), np.float32) for draw in draws])
    return GREY + blur(torch.from_numpy(noise), ascent.smoothing, ascent.smoothing * ascent.moving)


def find(
    subject: Subject,
    contrasts: Float64Array,
    shape: tuple[int, int],
    ascent: Ascent,
    seed: int,
    advance: Advance = lambda _: None,
) -> Found:
    """The most exciting input of each neuron; a result is a function of the seed and its neuron alone.

    Args:
        subject: differentiable; its n neurons are climbed for at once.
        contrasts: (n,) contrast of each one's stimulus, grey levels.
        shape: h and w of a frame.
        ascent: how.
        seed: of the starts.
        advance: told the share of the work that each step was.

    Raises:
        PredictionError: a response or a gradient is not finite.
    """
    units = torch.arange(subject.neurons).repeat_interleave(ascent.starts)
    rows = torch.arange(len(units))
    wanted = torch.from_numpy(contrasts).float().repeat_interleave(ascent.starts)
    stimuli = with_contrast(_starts(ascent, shape, seed).repeat(subject.neurons, 1, 1, 1), wanted)
    best, top = stimuli, torch.full((len(rows),), -torch.inf)
    dead = torch.ones(len(rows), dtype=torch.bool)
    for step in range(ascent.steps + 1):
        stimuli = stimuli.detach().requires_grad_()
        responses = mean_response(subject, stimuli, ascent.frames)[rows, units]
        (gradient,) = torch.autograd.grad(responses.sum(), stimuli)
        reached = responses.detach().cpu()
        if not (reached.isfinite().all() and gradient.isfinite().all()):
            raise PredictionError(
                "A response to the stimulus, or its gradient, is not finite: the ascent diverged.",
                "Train the model again.",
            )
        better = reached > top
        best, top = torch.where(better[:, None, None, None], stimuli.detach(), best), torch.where(better, reached, top)
        dead &= gradient.flatten(1).abs().amax(1) == 0
        rate = ascent.rate * (1 - 0.9 * step / max(1, ascent.steps))
        stimuli = _step(stimuli.detach(), gradient, wanted, rate, ascent)
        advance(1 / (ascent.steps + 1))
    scores = top.view(subject.neurons, ascent.starts)
    chosen = scores.argmax(1) + ascent.starts * torch.arange(subject.neurons)
    return Found(best[chosen].numpy(), float_array(scores), dead.view(scores.shape).all(1).numpy())


def _step(
    stimuli: torch.Tensor, gradient: torch.Tensor, wanted: torch.Tensor, rate: float, ascent: Ascent
) -> torch.Tensor:
    smooth = blur(gradient, ascent.smoothing, ascent.smoothing * ascent.moving)
    size = smooth.square().mean((1, 2, 3), keepdim=True).sqrt()
    scale = rate * wanted[:, None, None, None] / torch.where(size > 0, size, 1)
    return with_contrast(stimuli + scale * smooth, wanted)


Stimulus = tuple[int, int, torch.Tensor]
"""Trial, first frame, and frames (1 or L, h, w)."""


@dataclass(frozen=True)
class Natural:
    """The natural stimulus that drives each of n neurons most."""

    responses: Float64Array
    """(n,) mean response to it."""
    contrasts: Float64Array
    """(n,) its contrast, grey levels."""
    places: NDArray[np.int64]
    """(n, 2) trial and first frame."""


def natural_stimuli(store: MouseStore, ascent: Ascent, every: int) -> Iterator[Stimulus]:
    """Frames, or clips of the length of the movie, of the training trials.

    Args:
        store: the mouse.
        ascent: what they are compared with.
        every: distance between two of them, frames.
    """
    length = ascent.frames if ascent.moving else 1
    for trial in np.flatnonzero(store.tiers == "train").tolist():
        video = store.video(trial)
        for first in range(0, len(video) - length + 1, every):
            yield trial, first, torch.from_numpy(video[first : first + length]).float()


def best_natural(
    subject: Subject, stimuli: Iterator[Stimulus], frames: int, batch: int, wanted: float | None = None
) -> Natural:
    """Show natural stimuli and keep the best one of each neuron.

    Args:
        subject: who sees them.
        stimuli: as `natural_stimuli` yields them.
        frames: how long each is shown.
        batch: shown at once.
        wanted: contrast to which each is brought; None leaves them as the animal saw them.

    Raises:
        PredictionError: there is none.
    """
    top = np.full(subject.neurons, -np.inf)
    contrasts, places = np.zeros(subject.neurons), np.zeros((subject.neurons, 2), np.int64)
    while part := list(itertools.islice(stimuli, batch)):
        shown = torch.stack([frames_shown for *_, frames_shown in part])
        if wanted is not None:
            shown = with_contrast(shown, torch.full((len(part),), wanted))
        with torch.no_grad():
            responses = float_array(mean_response(subject, shown, frames))
        winner, own = responses.argmax(0), responses.max(0)
        better = own > top
        top = np.where(better, own, top)
        contrasts = np.where(better, float_array(contrast(shown))[winner], contrasts)
        places = np.where(better[:, None], np.array([place for *place, _ in part])[winner], places)
    if not np.isfinite(top).all():
        raise PredictionError(
            f"No training trial has {frames} frames to compare with.", "Ask for a shorter stimulus with --frames."
        )
    return Natural(top, contrasts, places)


def measure(
    subject: Subject,
    advance: Advance,
    store: MouseStore,
    ascents: Mapping[str, Ascent],
    seed: int,
    every: int,
    wanted: float | None,
) -> Outcome:
    """Most exciting inputs beside the natural stimuli that drive each neuron most.

    Args:
        subject: differentiable.
        advance: told the share of the work that was done.
        store: the mouse whose training trials are the natural stimuli.
        ascents: kinds of stimuli by name.
        seed: of the starts.
        every: distance between two natural stimuli, frames.
        wanted: contrast of all stimuli, grey levels; None for that of the natural stimulus that drives the neuron most.

    Returns:
        Table `summary` with a row per neuron and kind of stimulus: `stimulus`; `response` to the most exciting input;
        `natural_response` to the best natural stimulus as the animal saw it; `same_contrast_response` to the best
        natural stimulus at the contrast of the most exciting one; `contrast`; `trial` and `frame` of the natural one;
        `worst_start`, the response that the worst start led to; `dead`. Arrays by kind: the most exciting inputs, and
        `natural_` with its name, the natural ones.
    """
    tables: list[pd.DataFrame] = []
    arrays: dict[str, Float32Array] = {}
    share = 1 / len(ascents)
    for name, ascent in ascents.items():
        seen = best_natural(subject, natural_stimuli(store, ascent, every), ascent.frames, _SHOWN)
        scaled = (
            seen
            if wanted is None
            else best_natural(subject, natural_stimuli(store, ascent, every), ascent.frames, _SHOWN, wanted)
        )
        advance(share / 2)
        levels = seen.contrasts if wanted is None else np.full(subject.neurons, wanted)
        found = find(subject, levels, store.frame_shape, ascent, seed, lambda done: advance(done * share / 2))
        columns = {
            "neuron": np.arange(subject.neurons),
            "stimulus": name,
            "response": found.responses.max(1),
            "natural_response": seen.responses,
            "same_contrast_response": scaled.responses,
            "contrast": levels,
            "trial": seen.places[:, 0],
            "frame": seen.places[:, 1],
            "worst_start": found.responses.min(1),
            "dead": found.dead,
        }
        tables.append(pd.DataFrame(columns))
        length = found.movies.shape[1]
        shown = [store.video(int(trial), int(first), int(first) + length) for trial, first in seen.places]
        arrays |= {name: found.movies, f"natural_{name}": np.stack(shown).astype(np.float32)}
    return Outcome({"summary": pd.concat(tables, ignore_index=True)}, arrays)
