"""What the neurons of a simulated mouse are, known exactly, in the terms of the experiments in silico."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sensorium.recordings.synthetic.neurons import COMPONENTS

if TYPE_CHECKING:
    from sensorium.recordings.synthetic.mouse import Simulation

PARAMETERS = "neurons.parquet"
"""File of the table beside the noiseless rates."""


def parameters(simulation: "Simulation") -> pd.DataFrame:
    """One row per neuron.

    Columns: `unit_id`; `row`, `column` of the receptive field's centre and its `sigma`, pixels; `orientation` of the
    Gabor's bars, degrees (0 horizontal, 90 vertical, towards the lower right between them); `spatial_frequency`,
    cycles per frame height; the signed weight of each component: `luminance`, `simple`, `complex`, `running`, `pupil`.
    The temporal kernels pass slow changes most, so a preferred speed follows from the responses alone.
    """
    population, height = simulation.population, simulation.recipe.settings.frame_height
    table = pd.DataFrame(population.weights.T, columns=list(COMPONENTS))
    table.insert(0, "unit_id", simulation.unit_ids.astype(np.int64))
    table["row"], table["column"] = (population.places * height).T
    table["sigma"] = population.sigma * height
    table["orientation"] = (360 * population.angle + 90) % 180
    table["spatial_frequency"] = population.frequency
    return table
