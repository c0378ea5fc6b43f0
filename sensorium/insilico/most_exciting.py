"""Most exciting inputs: the image, or the movie, of a given contrast that drives a neuron most.

Gradient ascent on the pixels, as in inception loops (Walker et al. 2019, https://doi.org/10.1038/s41593-019-0517-x) and
in the control of visual neurons (Bashivan, Kar & DiCarlo 2019, https://doi.org/10.1126/science.aav9436). The contrast,
the root mean square deviation from mean grey, is held fixed, since almost any neuron answers more to more contrast.
Gaussian smoothing of the gradient is the prior: without it the result is full of high frequencies that drive the model
and mean nothing (Olah, Mordvintsev & Schubert 2017, https://doi.org/10.23915/distill.00007).

n neurons, S starts, L frames, h w pixels, C natural stimuli.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.insilico.subject import GREY, Subject, float_array
from sensorium.seeding import generator

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_CLIPPINGS = 4  # of grey levels beyond 0..255, each followed by a correction of the contrast


@dataclass(frozen=True)
class Ascent:
    """How a stimulus is climbed to."""

    frames: int
    """Length L of the stimulus; the mean response over its second half is raised."""
    moving: bool
    """Whether the frames may differ: a movie, not an image."""
    steps: int = 60
    starts: int = 3
    """Random stimuli to start from; the best result counts."""
    rate: float = 0.5
    """Size of the first step, in units of the contrast; it falls linearly to a tenth."""
    smoothing: float = 1.0
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


def _starts(ascent: Ascent, shape: tuple[int, int], seed: int, neurons: Sequence[int]) -> torch.Tensor:
    length = ascent.frames if ascent.moving else 1
    noise = [
        generator(seed, "most exciting input", neuron, start).standard_normal((length, *shape), np.float32)
        for neuron in neurons
        for start in range(ascent.starts)
    ]
    return GREY + blur(torch.from_numpy(np.stack(noise)), ascent.smoothing, ascent.smoothing * ascent.moving)


def find(
    subject: Subject,
    neurons: Sequence[int],
    contrasts: Float64Array,
    shape: tuple[int, int],
    ascent: Ascent,
    seed: int,
) -> Found:
    """The most exciting input of some neurons; each result is a function of the seed and its neuron alone.

    Args:
        subject: differentiable.
        neurons: indices of the n neurons; all are climbed for at once.
        contrasts: (n,) contrast of each one's stimulus, grey levels.
        shape: h and w of a frame.
        ascent: how.
        seed: of the starts.

    Raises:
        PredictionError: a response or a gradient is not finite.
    """
    rows = torch.arange(len(neurons) * ascent.starts)
    units = torch.tensor(list(neurons)).repeat_interleave(ascent.starts)
    wanted = torch.from_numpy(contrasts).float().repeat_interleave(ascent.starts)
    stimuli = with_contrast(_starts(ascent, shape, seed, neurons), wanted)
    best, top = stimuli, torch.full((len(rows),), -torch.inf)
    dead = torch.ones(len(rows), dtype=torch.bool)
    for step in range(ascent.steps + 1):
        stimuli = stimuli.detach().requires_grad_()
        responses = mean_response(subject, stimuli, ascent.frames)[rows, units]
        (gradient,) = torch.autograd.grad(responses.sum(), stimuli)
        reached = responses.detach().cpu()
        _check(reached, gradient, units)
        better = reached > top
        best, top = torch.where(better[:, None, None, None], stimuli.detach(), best), torch.where(better, reached, top)
        dead &= gradient.flatten(1).abs().amax(1) == 0
        rate = ascent.rate * (1 - 0.9 * step / max(1, ascent.steps))
        stimuli = _step(stimuli.detach(), gradient, wanted, rate, ascent)
    scores = top.view(len(neurons), ascent.starts)
    chosen = scores.argmax(1) + ascent.starts * torch.arange(len(neurons))
    return Found(best[chosen].numpy(), float_array(scores), dead.view(scores.shape).all(1).numpy())


def _step(
    stimuli: torch.Tensor, gradient: torch.Tensor, wanted: torch.Tensor, rate: float, ascent: Ascent
) -> torch.Tensor:
    smooth = blur(gradient, ascent.smoothing, ascent.smoothing * ascent.moving)
    size = smooth.square().mean((1, 2, 3), keepdim=True).sqrt()
    scale = rate * wanted[:, None, None, None] / torch.where(size > 0, size, 1)
    return with_contrast(stimuli + scale * smooth, wanted)


def _check(responses: torch.Tensor, gradient: torch.Tensor, units: torch.Tensor) -> None:
    finite = responses.isfinite()
    if finite.all():  # one response that is not spoils the gradients of all
        finite = gradient.flatten(1).isfinite().all(1).cpu()
    if not finite.all():
        raise PredictionError(
            f"neuron {int(units[~finite][0])}: its response, or the gradient of it, is not finite: the ascent diverged.",
            "Make the steps smaller, or train the model again.",
        )


@dataclass(frozen=True)
class Natural:
    """The natural stimulus that drives each of N neurons most, as it was shown to the animal."""

    responses: Float64Array
    """(N,) mean response to it."""
    contrasts: Float64Array
    """(N,) its contrast, grey levels."""
    places: NDArray[np.int64]
    """(N, 2) trial and first frame."""
    seen: int
    """How many were compared."""


def natural_stimuli(
    store: MouseStore, frames: int, every: int, *, moving: bool
) -> Iterator[tuple[tuple[int, int], Float32Array]]:
    """Frames or clips (1 or `frames`, h, w) of the training trials, each with its trial and first frame.

    Args:
        store: the mouse.
        frames: length of a clip.
        every: distance between two of them, frames.
        moving: clips; single frames otherwise.
    """
    length = frames if moving else 1
    for trial in np.flatnonzero(store.tiers == "train").tolist():
        video = store.video(trial)
        for first in range(0, len(video) - length + 1, every):
            yield (trial, first), video[first : first + length].astype(np.float32)


def best_natural(
    subject: Subject, stimuli: Iterator[tuple[tuple[int, int], Float32Array]], frames: int, batch: int
) -> Natural:
    """Show natural stimuli and keep the best one of each neuron.

    Args:
        subject: who sees them.
        stimuli: as `natural_stimuli` yields them.
        frames: how long each is shown.
        batch: shown at once.

    Raises:
        PredictionError: there is none.
    """
    top = np.full(subject.neurons, -np.inf)
    contrasts, places = np.zeros(subject.neurons), np.zeros((subject.neurons, 2), np.int64)
    seen = 0
    while part := [pair for _, pair in zip(range(batch), stimuli, strict=False)]:
        shown = torch.from_numpy(np.stack([stimulus for _, stimulus in part]))
        with torch.no_grad():
            responses = float_array(mean_response(subject, shown, frames))
        winner, own = responses.argmax(0), responses.max(0)
        better = own > top
        top = np.where(better, own, top)
        contrasts = np.where(better, float_array(contrast(shown))[winner], contrasts)
        places = np.where(better[:, None], np.array([place for place, _ in part])[winner], places)
        seen += len(part)
    if not seen:
        raise PredictionError(
            f"no training trial has {frames} frames to compare with.", "Ask for a shorter stimulus with --frames."
        )
    return Natural(top, contrasts, places, seen)
