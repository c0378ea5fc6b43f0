"""What an experiment in silico is made on: anything that answers movies.

B movies, L frames, h w pixels, N neurons of the mouse, n of them that are observed.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from sensorium.config import WindowConfig
from sensorium.data.inputs import sliding_starts, trial_windows
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.inference.member import Member
from sensorium.inference.sliding import check_length

STATES = ("pupil dilation", "running speed", "pupil centre x", "pupil centre y")
"""Components of the animal's state, in the order of the model's input."""


class Subject(Protocol):
    """Answers movies; a stand-in for an animal."""

    @property
    def neurons(self) -> int:
        """n, the number of neurons that are observed."""

    @property
    def shortest(self) -> int:
        """Frames of the shortest movie that can be shown."""

    def __call__(self, movies: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """Movies (B, L, h, w) of grey levels to responses (B, n, L).

        Args:
            movies: what is shown.
            states: what the animal does, of a shape that broadcasts to (B, L, 4), see `STATES`; by default the means.
        """

    def select(self, neurons: NDArray[np.int64]) -> Self:
        """The same subject, of which only these n neurons are observed, indices among those observed now."""


class Weighted(NamedTuple):
    """A model and its share in the mean prediction."""

    member: Member
    weight: float
    """All of them add up to 1."""


class ModelSubject:
    """Mean prediction of models through their sliding windows, differentiable with respect to the movie.

    Equal to `sensorium.inference.sliding.SlidingPredictor`, whose results carry no gradient.
    """

    def __init__(self, parts: Sequence[Weighted], state: torch.Tensor, batch_size: int, device: torch.device) -> None:
        """Prepare the models.

        Args:
            parts: models of one mouse and their weights; they are moved to the device.
            state: (4,) the animal's state where none is given, see `STATES`.
            batch_size: most windows in one forward pass; a gradient needs the memory of one such pass.
            device: where to compute.
        """
        self._parts = [Weighted(part.member.to(device), part.weight) for part in parts]
        self.neurons: int = parts[0].member.neurons
        self._state = state.to(device)
        self._batch_size = batch_size
        self.device = device
        self.observed: torch.Tensor | None = None
        """Indices of the n neurons; None for all."""
        self._stride = 1

    def select(self, neurons: NDArray[np.int64]) -> Self:
        """The same models, of which only these neurons are observed, indices among those observed now."""
        chosen = torch.from_numpy(neurons).to(self.device)
        view = copy.copy(self)
        view.observed = chosen if self.observed is None else self.observed[chosen]
        view.neurons = len(neurons)
        return view

    def separate(self, stride: int) -> list[Self]:
        """Each model as a subject of its own.

        Args:
            stride: one of so many places of the window is taken, the neighbours that cover the frames between included.
                That is quicker by as much; a frame's response is the mean of fewer windows.
        """
        views = []
        for part in self._parts:
            view = copy.copy(self)
            view._parts, view._stride = [part._replace(weight=1.0)], stride  # noqa: SLF001 - of the same class
            views.append(view)
        return views

    @property
    def shortest(self) -> int:
        """Frames of the shortest movie that the models can predict."""
        return max(part.member.window.shortest_trial for part in self._parts)

    def __call__(self, movies: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """Movies (B, L, h, w) of grey levels to responses (B, n, L), see `Subject`.

        Raises:
            PredictionError: the movies are too short, or a response is not finite.
            DataError: the frames are larger than the models' canvas.
        """
        movies = movies.to(self.device)
        given = self._state if states is None else states.to(self.device)
        shown = given.expand(*movies.shape[:2], 4)
        inputs: dict[tuple[WindowConfig, tuple[int, int]], torch.Tensor] = {}
        total = torch.zeros((), device=self.device)
        for member, weight in self._parts:
            form = member.window, member.canvas
            if form not in inputs:
                inputs[form] = self._windows(movies, shown, *form)
            total = total + weight * self._mean(member, inputs[form], movies.shape[1])
        if not total.isfinite().all():
            raise PredictionError(
                "The model's response is not finite.", "The weights have diverged: train the model again."
            )
        return total

    def _windows(
        self, movies: torch.Tensor, states: torch.Tensor, window: WindowConfig, canvas: tuple[int, int]
    ) -> torch.Tensor:
        """Inputs (B * windows, 5, T, H, W)."""
        check_length(movies.shape[1], "movie", window)
        starts = torch.from_numpy(self._starts(movies.shape[1], window))
        shown = zip(movies, states, strict=True)
        return torch.cat([trial_windows(movie, state, starts, window, canvas) for movie, state in shown])

    def _mean(self, member: Member, inputs: torch.Tensor, length: int) -> torch.Tensor:
        """Mean (B, n, L) of the windows that cover each frame."""
        window = member.window
        starts = torch.from_numpy(self._starts(length, window))
        predicted = self._predict(member, inputs)
        movies = len(predicted) // len(starts)
        flat = predicted.view(movies, len(starts), self.neurons, -1).permute(0, 2, 1, 3).flatten(2)
        frames = (starts[:, None] + window.step * torch.arange(window.frames)).flatten().to(self.device)
        summed = torch.zeros((movies, self.neurons, length), device=self.device).index_add(2, frames, flat)
        return summed / torch.bincount(frames, minlength=length)

    def _starts(self, length: int, window: WindowConfig) -> NDArray[np.int64]:
        """Places of the window, taken in groups of `step` neighbours, which cover all frames of their width."""
        starts = sliding_starts(length, window)
        taken = (starts // window.step % self._stride == 0) | (starts > starts[-1] - window.step)
        places: NDArray[np.int64] = starts[taken]
        return places

    def _predict(self, member: Member, inputs: torch.Tensor) -> torch.Tensor:
        """Responses (B, n, T) to windows; what a batch's gradient needs is computed again when its turn has come."""
        batches = torch.split(inputs, self._batch_size)
        again = len(batches) > 1 and inputs.requires_grad
        return torch.cat(
            [
                self._observe(checkpoint(member, batch, use_reentrant=False) if again else member(batch))
                for batch in batches
            ]
        )

    def _observe(self, responses: torch.Tensor) -> torch.Tensor:
        return responses if self.observed is None else responses[:, self.observed]


def mean_state(store: MouseStore) -> torch.Tensor:
    """Mean (4,) of behaviour and pupil centre over the training trials, see `STATES`."""
    means = [np.nanmean(store.statistics(name, "mean"), axis=0) for name in ("behavior", "pupil_center")]
    return torch.from_numpy(np.concatenate(means).astype(np.float32))


def float_array(tensor: torch.Tensor) -> NDArray[np.float64]:
    """A tensor as an array of float64."""
    array: NDArray[np.float64] = tensor.detach().cpu().numpy().astype(np.float64)
    return array
