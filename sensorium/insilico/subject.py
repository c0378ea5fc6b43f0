"""What an experiment in silico is made on: anything that answers movies.

B movies, L frames, h w pixels, N neurons.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from sensorium.data.inputs import sliding_starts, trial_windows
from sensorium.inference.member import Member

GREY = 127.5
"""Mean grey level of the stimuli."""


class Subject(Protocol):
    """Answers movies; a stand-in for an animal."""

    neurons: int

    def __call__(self, movies: torch.Tensor) -> torch.Tensor:
        """Movies (B, L, h, w) of grey levels to responses (B, N, L)."""


class ModelSubject:
    """Mean prediction of models through their sliding windows, differentiable with respect to the movie.

    Equal to `sensorium.inference.sliding.SlidingPredictor`, whose results carry no gradient. The animal's state is the
    same at every frame.
    """

    def __init__(
        self, members: Sequence[Member], state: torch.Tensor, batch_size: int, device: torch.device, stride: int = 1
    ) -> None:
        """Prepare the models.

        Args:
            members: models of one mouse, all of the same weight, their windows and canvases equal.
            state: (4,) behaviour and pupil centre at every frame, or (L, 4) for movies of L frames.
            batch_size: most windows in one forward pass; a gradient takes the memory of one such pass.
            device: where to compute; the models are moved there.
            stride: the window is placed at every `stride`-th pair of neighbouring places; 1 as in prediction. More is
                quicker by as much and averages fewer windows a frame.
        """
        self.members = [member.to(device) for member in members]
        self.window, self.canvas = members[0].window, members[0].canvas
        self.neurons: int = members[0].neurons
        self.state = state.to(device)
        self.batch_size = batch_size
        self.device = device
        self.stride = stride

    def __call__(self, movies: torch.Tensor) -> torch.Tensor:
        """Movies (B, L, h, w) of grey levels to responses (B, N, L)."""
        movies = movies.to(self.device)
        length = movies.shape[1]
        starts = torch.from_numpy(self._starts(length))
        states = self.state.expand(length, 4)
        inputs = torch.cat([trial_windows(movie, states, starts, self.window, self.canvas) for movie in movies])
        total: torch.Tensor = sum(self._predict(member, inputs) for member in self.members)  # type: ignore[assignment]
        predicted = total.view(len(movies), len(starts), self.neurons, -1)
        frames = starts[:, None] + self.window.step * torch.arange(self.window.frames)
        flat = predicted.permute(0, 2, 1, 3).flatten(2)  # (B, N, windows * T)
        summed = torch.zeros((len(movies), self.neurons, length), device=self.device)
        summed = summed.index_add(2, frames.flatten().to(self.device), flat)
        covered = torch.bincount(frames.flatten(), minlength=length).to(self.device)
        return summed / (covered * len(self.members))

    def _starts(self, length: int) -> NDArray[np.int64]:
        """Places of the window: groups of `step` neighbours, which cover every frame of its width together."""
        starts = sliding_starts(length, self.window)
        groups = starts // self.window.step
        return starts[(groups % self.stride == 0) | (starts > starts[-1] - self.window.step)]

    def _predict(self, member: Member, inputs: torch.Tensor) -> torch.Tensor:
        """Responses (B, N, T) to windows; activations of a batch are computed again when its gradient is."""
        parts = inputs.split(self.batch_size)
        again = len(parts) > 1 and inputs.requires_grad
        return torch.cat([checkpoint(member, part, use_reentrant=False) if again else member(part) for part in parts])


def float_array(tensor: torch.Tensor) -> NDArray[np.float64]:
    """A tensor as an array of float64."""
    array: NDArray[np.float64] = tensor.detach().cpu().numpy().astype(np.float64)
    return array
