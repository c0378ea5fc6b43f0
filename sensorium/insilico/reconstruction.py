"""The movie that an animal saw, reconstructed from its responses by gradient descent on the input of models.

As Bauer, Margrie & Clopath 2026 do it ("Movie reconstruction from mouse visual cortex activity", eLife 14:RP105081,
https://doi.org/10.7554/eLife.105081) with models of this architecture. A movie that begins grey is changed until what
the models predict for it, with the animal's behaviour of that trial, fits the measured responses: Poisson negative
log-likelihood, the gradient of each model scaled to one norm before their mean is taken, momentum, a warm-up of ten
steps, grey levels clipped to 0..255, and only the part of the frame changed that the neurons see. Added here: the
steps end at zero, and the gradient can be smoothed.

They report a pixel correlation of 0.57 for five mice of 8,000 neurons and seven models.

L frames, h w pixels, N neurons, M models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn.functional import poisson_nll_loss

from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.gratings import GREY
from sensorium.insilico.most_exciting import blur
from sensorium.insilico.receptive_field import block_size, noise_movie
from sensorium.insilico.session import Advance, Outcome
from sensorium.insilico.subject import ModelSubject, Subject, float_array
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.seeding import generator

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

Answer = Callable[[torch.Tensor], torch.Tensor]
"""Movies (B, L, h, w) to responses (B, N, L), differentiable."""

_MOMENTUM = 0.9
_WARM_UP = 10  # steps
_SMALLEST_RATE = 1e-8  # added to a predicted rate before its logarithm
_SETTLED = 20
"""Frames by which the noise that the mask is found by is longer than the shortest movie that can be shown."""
_FILM_SCALE = 4


@dataclass(frozen=True)
class Descent:
    """How a movie is descended to."""

    steps: int = 100
    rate: float = 5.0
    """Root mean square change of the pixels of the mask in one step, grey levels; it ends at zero."""
    smoothing: float = 3.0
    """Standard deviation of the gradient's blur, in space and time: pixels and frames."""


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed movie."""

    movie: Float32Array
    """(L, h, w) grey levels; grey outside of the mask."""
    losses: Float64Array
    """(steps + 1,) Poisson negative log-likelihood, mean over models, neurons and frames."""


def reconstruct(
    models: Sequence[Answer],
    responses: NDArray[np.floating],
    neurons: NDArray[np.int64],
    mask: Mask,
    descent: Descent,
    advance: Advance = lambda _: None,
) -> Reconstruction:
    """Find the movie that fits responses.

    Args:
        models: the M models, each with the behaviour of the trial.
        responses: (N, L) of all neurons; what is below zero counts as zero.
        neurons: indices of those that are used.
        mask: (h, w) pixels that may change.
        descent: how.
        advance: told the share of the work that each step was.

    Raises:
        PredictionError: the loss or its gradient is not finite, or no pixel changes it.
    """
    chosen = torch.from_numpy(neurons)
    target = _target(responses, neurons)
    inside = torch.from_numpy(mask)
    movie = torch.full((responses.shape[1], *mask.shape), GREY)
    velocity = torch.zeros_like(movie)
    losses = []
    for step in range(descent.steps + 1):
        loss, gradient = _mean_gradient(models, movie, chosen, target, inside)
        losses.append(loss)
        if descent.smoothing:
            gradient = blur(gradient, descent.smoothing, descent.smoothing) * inside
        velocity = _MOMENTUM * velocity + (1 - _MOMENTUM) * gradient
        rate = descent.rate * min(1, (step + 1) / _WARM_UP) * (1 - step / (descent.steps + 1))
        movie = (movie - rate * velocity).clamp(0, 255)
        advance(1 / (descent.steps + 1))
    return Reconstruction(movie.numpy(), np.array(losses))


def _target(responses: NDArray[np.floating], neurons: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.maximum(responses[neurons], 0).astype(np.float32))


def _mean_gradient(
    models: Sequence[Answer], movie: torch.Tensor, chosen: torch.Tensor, target: torch.Tensor, inside: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Mean loss of the models, and the mean of their gradients, each of root mean square 1 within the mask."""
    total, losses = torch.zeros_like(movie), []
    for model in models:
        shown = movie.clone().requires_grad_()
        predicted = model(shown[None])[0].cpu()[chosen].float()
        loss = poisson_nll_loss(predicted, target, log_input=False, eps=_SMALLEST_RATE)
        (gradient,) = torch.autograd.grad(loss, shown)
        gradient = gradient * inside
        size = gradient.norm() / (inside.sum() * len(movie)).sqrt()
        if not (loss.isfinite() and size.isfinite()):
            raise PredictionError(
                "the loss of the reconstruction, or its gradient, is not finite: the descent diverged.",
                "Make the steps smaller, or train the models again.",
            )
        if size == 0:
            raise PredictionError(
                "no pixel of the mask changes the predicted responses.",
                "Choose other neurons or a wider mask, or train the models longer.",
            )
        losses.append(float(loss.detach()))
        total += gradient / size
    return float(np.mean(losses)), total / len(models)


@dataclass(frozen=True)
class Held:
    """A trial that the models were not trained on."""

    trial: int
    movie: Float32Array
    """(L, h, w) what the animal saw."""
    states: Float32Array
    """(L, 4) its behaviour."""
    responses: Float32Array
    """(N, L)."""

    @classmethod
    def read(cls, store: MouseStore, trial: int, frames: int | None = None) -> "Held":
        """Read a trial, its first `frames` or all of them."""
        length = int(store.lengths[trial])
        stop = length if frames is None else min(frames, length)
        movie = store.video(trial, 0, stop).astype(np.float32)
        return cls(trial, movie, store.states(trial, 0, stop), store.responses(trial, 0, stop).T)


def measure(
    subject: Subject,
    held: Held,
    neurons: NDArray[np.int64],
    mask: Mask,
    descent: Descent,
    stride: int,
    skipped: int,
    advance: Advance = lambda _: None,
) -> Outcome:
    """Reconstruct one trial and compare with what was shown.

    Args:
        subject: the mean of the models, or a mouse's rate function.
        held: the trial.
        neurons: indices of those that are used.
        mask: (h, w) pixels that are reconstructed.
        descent: how.
        stride: of the models' window, see `sensorium.insilico.subject.ModelSubject.separate`.
        skipped: frames at the beginning that are not compared: the models have seen too little there.
        advance: told the share of the work that was done.

    Returns:
        Tables `trials`, one row: `trial`, `frames`, `neurons`, `models`; `pixel_correlation`; `loss` of the
        reconstruction and `true_loss` of the movie that was shown, below which the reconstruction fits noise; and
        `losses` by step. Arrays: `reconstructed` and `shown`, (L, h, w) each.
    """
    states = torch.from_numpy(held.states)
    parts: list[Any] = subject.separate(stride) if isinstance(subject, ModelSubject) else [subject]
    models = [partial(part, states=states) for part in parts]
    found = reconstruct(models, held.responses, neurons, mask, descent, advance)
    with torch.no_grad():
        predicted = subject(torch.from_numpy(held.movie)[None], states)[0].cpu()[torch.from_numpy(neurons)].float()
        true_loss = poisson_nll_loss(predicted, _target(held.responses, neurons), log_input=False, eps=_SMALLEST_RATE)
    row = {
        "trial": held.trial,
        "frames": len(held.movie),
        "neurons": len(neurons),
        "models": len(models),
        "pixel_correlation": pixel_correlation(found.movie[skipped:], held.movie[skipped:], mask),
        "loss": found.losses[-1],
        "true_loss": float(true_loss),
    }
    losses = pd.DataFrame({"trial": held.trial, "step": np.arange(len(found.losses)), "loss": found.losses})
    return Outcome(
        {"trials": pd.DataFrame([row]), "losses": losses}, {"reconstructed": found.movie, "shown": held.movie}
    )


def keep(neurons: NDArray[np.int64], share: float, seed: int, trial: int) -> NDArray[np.int64]:
    """A random share of neurons, at least one, drawn anew for every trial as published; in rising order."""
    count = max(1, round(share * len(neurons)))
    return np.sort(generator(seed, "kept neurons", trial).permutation(neurons)[:count])


def sensitivity(subject: Subject, shape: tuple[int, int], seed: int, movies: int = 8) -> Float64Array:
    """Where the neurons look: root mean square (h, w) of the responses' gradients, its largest value 1.

    The sum of squares over neurons is that of one gradient: of the responses added up with random signs, as the squares
    are expected to be the same (Hutchinson 1989, https://doi.org/10.1080/03610919008812866).

    Args:
        subject: differentiable.
        shape: h and w of a frame.
        seed: of the noise and of the signs.
        movies: of white noise at which the gradients are taken.

    Raises:
        PredictionError: no pixel changes a response.
    """
    energy = np.zeros(shape)
    length = subject.shortest + _SETTLED
    for number in range(movies):
        shown = noise_movie(seed, number, shape, block_size(shape), length)[None].requires_grad_()
        responses = subject(shown)
        signs = generator(seed, "mask", number).choice([-1.0, 1.0], tuple(responses.shape))
        (gradient,) = torch.autograd.grad((responses * torch.from_numpy(signs).to(responses)).sum(), shown)
        energy += (float_array(gradient[0]) ** 2).sum(0)
    if not (np.isfinite(energy).all() and energy.max() > 0):
        raise PredictionError("no pixel changes a predicted response.", "Train the models longer.")
    smooth = np.sqrt(gaussian_filter(energy, shape[0] / 12, mode="nearest"))
    relative: Float64Array = smooth / smooth.max()
    return relative


def disc(shape: tuple[int, int], center: tuple[float, float], radius: float) -> Mask:
    """A mask (h, w) of the pixels within a radius of a centre, pixels; all False where none is."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    mask: Mask = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius * radius
    return mask


def pixel_correlation(movie: NDArray[np.floating], true: NDArray[np.floating], mask: Mask) -> float:
    """Pearson correlation of all pixels of a mask (h, w) in all frames of two movies (L, h, w).

    NaN where one of them is constant.
    """
    found, shown = (frames[:, mask].astype(np.float64).ravel() for frames in (movie, true))
    found, shown = found - found.mean(), shown - shown.mean()
    size = np.sqrt((found @ found) * (shown @ shown))
    return float(found @ shown / size) if size > 0 else float("nan")


def write_film(path: Path, movies: Sequence[NDArray[np.floating]], mask: Mask) -> None:
    """Write movies (L, h, w) side by side as a GIF in real time, pixels four times as large, grey outside of a mask."""
    gap = np.full((*movies[0].shape[:2], 1), 255.0)
    parts: list[NDArray[np.floating]] = [gap]
    for movie in movies:
        parts += [np.where(mask, movie, GREY), gap]
    whole = np.concatenate(parts, axis=2).round().clip(0, 255).astype(np.uint8)
    large = whole.repeat(_FILM_SCALE, axis=1).repeat(_FILM_SCALE, axis=2)
    first, *rest = [Image.fromarray(frame) for frame in large]
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=1000 / FRAMES_PER_SECOND, loop=0)
