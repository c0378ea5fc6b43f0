"""Drifting gratings, which experiments in silico and served models show.

Angles are in degrees, from the rightward direction (0) to the downward one (90), as rows count downwards. A grating
moves perpendicular to its bars: bars of orientation 90 (vertical) move in direction 0 or 180.
L frames, h w pixels.
"""

import numpy as np
import torch

from sensorium.mice import FRAMES_PER_SECOND

GREY = 127.5
"""Mean grey level of the stimuli."""
Condition = tuple[float, float, float, float]
CONDITION = ["direction", "spatial_frequency", "temporal_frequency", "contrast"]


def grating(condition: Condition, frames: int, shape: tuple[int, int]) -> torch.Tensor:
    """A drifting sine grating (L, h, w), grey levels 0 to 255.

    Args:
        condition: direction (degrees), spatial frequency (cycles per frame height), temporal frequency (Hz), contrast.
        frames: L.
        shape: h and w.
    """
    direction, spatial, temporal, contrast = condition
    angle = np.deg2rad(direction)
    rows, columns = torch.meshgrid(*(torch.arange(size) / shape[0] for size in shape), indexing="ij")
    along = columns * np.cos(angle) + rows * np.sin(angle)
    seconds = torch.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    return GREY * (1 + contrast * torch.sin(2 * np.pi * (spatial * along - temporal * seconds)))
