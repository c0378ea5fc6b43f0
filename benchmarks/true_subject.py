"""The noiseless rate function of a simulated mouse in PyTorch, so that stimuli can be climbed to through it."""

import numpy as np
import torch

from sensorium.recordings.synthetic.mouse import Simulation
from sensorium.recordings.synthetic.neurons import _GREY, _STATE_BITS, _VISUAL_BITS


class TrueSubject:
    """Equal to `sensorium.recordings.synthetic.truth.rates` but for roundings, and differentiable."""

    def __init__(self, simulation: Simulation, states: np.ndarray, neurons: np.ndarray | None = None) -> None:
        """Take the neurons of a simulation.

        Args:
            simulation: the mouse.
            states: (4,) or (L, 4) behaviour and pupil centre.
            neurons: indices of those that are there; all by default.
        """
        population = simulation.population
        chosen = np.arange(len(population.mean_rate)) if neurons is None else neurons

        def tensor(values):
            return torch.from_numpy(np.asarray(values, np.float64)[..., chosen]).float()

        self.neurons = len(chosen)
        self.states = torch.from_numpy(np.atleast_2d(states)).float()
        self.filters = torch.from_numpy(population.filters[:, chosen]).float()
        self.kernel = torch.from_numpy(population.kernel[chosen]).float().flip(1)[:, None]
        self.weights, self.center, self.scale = map(tensor, (population.weights, population.center, population.scale))
        self.steepness, self.threshold, self.gain = map(
            tensor, (population.steepness, population.threshold, population.gain)
        )

    def __call__(self, movies: torch.Tensor) -> torch.Tensor:
        seen = movies.flatten(2) - _GREY  # (B, L, P)
        taps = self.kernel.shape[2]
        padded = torch.cat([seen[:, :1].expand(-1, taps - 1, -1), seen], 1)
        linear = [
            torch.nn.functional.conv1d((padded @ one.T).transpose(1, 2), self.kernel, groups=self.neurons)
            for one in self.filters
        ]
        visual = [linear[0], linear[1], (linear[1].square() + linear[2].square() + 1e-6).sqrt()]
        dilation, speed = self.states[:, 0], self.states[:, 1]
        states = [speed.sqrt().expand(self.neurons, -1), dilation.expand(self.neurons, -1)]
        parts = [part * 2.0**_VISUAL_BITS for part in visual] + [part * 2.0**_STATE_BITS for part in states]
        drive = sum(
            ((part - center[:, None]) * (weight / scale)[:, None])
            for part, weight, center, scale in zip(parts, self.weights, self.center, self.scale, strict=True)
        )
        excitation = self.steepness[:, None] * (drive - self.threshold[:, None])
        return self.gain[:, None] * (excitation + (excitation.square() + 1).sqrt()) / 2
