"""What an experiment in silico is made on: anything that answers movies.

B movies, L frames, h w pixels, N neurons.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sensorium.data.inputs import sliding_starts, trial_windows
from sensorium.inference.member import Member
from sensorium.inference.sliding import coverage

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

    def __init__(self, members: Sequence[Member], state: torch.Tensor, batch_size: int, device: torch.device) -> None:
        """Prepare the models.

        Args:
            members: models of one mouse, all of the same weight, their windows and canvases equal.
            state: (4,) behaviour and pupil centre at every frame.
            batch_size: most windows in one forward pass.
            device: where to compute; the models are moved there.
        """
        self.members = [member.to(device) for member in members]
        self.window, self.canvas = members[0].window, members[0].canvas
        self.neurons: int = members[0].neurons
        self.state = state.to(device)
        self.batch_size = batch_size
        self.device = device

    def __call__(self, movies: torch.Tensor) -> torch.Tensor:
        """Movies (B, L, h, w) of grey levels to responses (B, N, L)."""
        movies = movies.to(self.device)
        length = movies.shape[1]
        starts = torch.from_numpy(sliding_starts(length, self.window))
        states = self.state.expand(length, 4)
        inputs = torch.cat([trial_windows(movie, states, starts, self.window, self.canvas) for movie in movies])
        total: torch.Tensor = sum(self._predict(member, inputs) for member in self.members)  # type: ignore[assignment]
        predicted = total.view(len(movies), len(starts), self.neurons, -1)
        frames = starts[:, None] + self.window.step * torch.arange(self.window.frames)
        flat = predicted.permute(0, 2, 1, 3).flatten(2)  # (B, N, windows * T)
        summed = torch.zeros((len(movies), self.neurons, length), device=self.device)
        summed = summed.index_add(2, frames.flatten().to(self.device), flat)
        covered = torch.from_numpy(coverage(length, self.window)).to(self.device)
        return summed / (covered * len(self.members))

    def _predict(self, member: Member, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([member(part) for part in inputs.split(self.batch_size)])


def float_array(tensor: torch.Tensor) -> NDArray[np.float64]:
    """A tensor as an array of float64."""
    array: NDArray[np.float64] = tensor.detach().cpu().numpy().astype(np.float64)
    return array
