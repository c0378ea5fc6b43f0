"""The noiseless rate of a simulated mouse as a subject: what a perfect model would answer.

A method that recovers the simulation's parameters from it is right; what a model misses beyond that is the model's.
B movies, L frames, P = h * w pixels, N neurons, n of them that are observed, K taps of the temporal kernel.
"""

import copy
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from sensorium.recordings.synthetic import neurons as synthetic
from sensorium.recordings.synthetic.mouse import Simulation


class RateSubject:
    """The rate function of `sensorium.recordings.synthetic.neurons`, differentiable: nothing is rounded."""

    def __init__(self, simulation: Simulation, state: torch.Tensor) -> None:
        """Take the neurons of a simulation.

        Args:
            simulation: the mouse.
            state: (4,) the animal's state where none is given, see `sensorium.insilico.subject.STATES`.
        """
        population = simulation.population
        names = ("weights", "center", "scale", "filters")
        self._weights, self._center, self._scale, self._filters = (
            torch.from_numpy(np.asarray(getattr(population, name), np.float64)) for name in names
        )
        columns = ("steepness", "threshold", "gain")
        self._steepness, self._threshold, self._gain = (
            torch.from_numpy(getattr(population, name))[:, None] for name in columns
        )
        self._kernel = torch.from_numpy(population.kernel)
        self._state = state
        self.observed = torch.arange(len(self._kernel))
        """(n,) indices of the neurons."""

    @property
    def neurons(self) -> int:
        """N."""
        return len(self.observed)

    @property
    def shortest(self) -> int:
        """Any movie can be shown."""
        return 1

    def select(self, neurons: NDArray[np.int64]) -> Self:
        """The same mouse, of which only these neurons are observed, indices among those observed now."""
        view = copy.copy(self)
        view.observed = self.observed[torch.from_numpy(neurons)]
        return view

    def __call__(self, movies: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """Movies (B, L, h, w) of grey levels to rates (B, n, L), see `sensorium.insilico.subject.Subject`."""
        chosen = self.observed
        seen = movies.flatten(2).double() - synthetic.GREY
        linear = torch.einsum("fnp,blp->fbnl", self._filters[:, chosen], seen)
        luminance, sine, cosine = self._delayed(linear) * 2.0**synthetic.VISUAL_BITS
        energy = (sine.square() + cosine.square() + torch.finfo(torch.float64).tiny).sqrt()
        given = (self._state if states is None else states).expand(*movies.shape[:2], 4).double()
        running = given[:, None, :, 1].sqrt() * 2.0**synthetic.STATE_BITS
        pupil = given[:, None, :, 0] * 2.0**synthetic.STATE_BITS
        drive = torch.zeros_like(luminance)
        for number, part in enumerate((luminance, sine, energy, running, pupil)):
            weight = (self._weights[number] / self._scale[number])[chosen, None]
            drive = drive + weight * (part - self._center[number][chosen, None])
        excitation = self._steepness[chosen] * (drive - self._threshold[chosen])
        return self._gain[chosen] * (excitation + (excitation.square() + 1).sqrt()) / 2

    def _delayed(self, linear: torch.Tensor) -> torch.Tensor:
        """Causal convolution of (3, B, n, L) with the kernels; before the movie the first frame stood still."""
        kernel = self._kernel[self.observed]
        taps, frames = kernel.shape[1], linear.shape[3]
        padded = torch.cat([linear[..., :1].expand(*linear.shape[:3], taps - 1), linear], dim=3)
        parts = [kernel[:, lag, None] * padded[..., taps - 1 - lag :][..., :frames] for lag in range(taps)]
        return torch.stack(parts).sum(0)
