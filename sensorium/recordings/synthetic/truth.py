"""What a simulated mouse is, known exactly: its neurons' parameters and their noiseless answer to any movie.

A simulation is a function of its recipe, so the truth is drawn again where it is asked for; nothing is stored.
"""

import numpy as np
import pandas as pd

from sensorium.recordings.synthetic.mouse import Float64Array, Recipe, Simulation
from sensorium.recordings.synthetic.neurons import COMPONENTS, Behavior


def parameters(simulation: Simulation) -> pd.DataFrame:
    """One row per neuron.

    Columns: `unit_id`; `row`, `column` of the receptive field's centre and its `sigma`, pixels; `orientation` of the
    Gabor's bars, degrees (0 horizontal, 90 vertical, towards the lower right between them); `spatial_frequency`,
    cycles per frame height; the signed weight of each component: `luminance`, `simple`, `complex`, `running`, `pupil`.
    """
    population, height = simulation.population, simulation.recipe.settings.frame_height
    table = pd.DataFrame(population.weights.T, columns=list(COMPONENTS))
    table.insert(0, "unit_id", simulation.unit_ids)
    table["row"], table["column"] = (population.places * height).T
    table["sigma"] = population.sigma * height
    table["orientation"] = (360 * population.angle + 90) % 180
    table["spatial_frequency"] = population.frequency
    return table


def rates(simulation: Simulation, movies: Float64Array, state: Float64Array) -> Float64Array:
    """Noiseless rates (B, N, L) for movies (B, L, h, w), the animal's state (4,) the same at every frame.

    Grey levels are rounded to whole numbers, as in the recordings.
    """
    frames = movies.shape[1]
    dilation, speed, *centre = (np.full(frames, value) for value in state)
    behavior = Behavior(dilation, speed, np.stack(centre))
    shown = np.rint(movies).clip(0, 255).astype(np.uint8)
    return np.stack([simulation.population.rate(movie, behavior) for movie in shown])


def truth(recipe: Recipe) -> pd.DataFrame:
    """The table of `parameters` of the mouse that a recipe makes."""
    return parameters(Simulation(recipe))
