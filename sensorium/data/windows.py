"""Which frames a window takes, and where windows start in a trial.

T frames of a window, L frames of a trial; `window.width` frames of the recording lie under a window.
"""

import numpy as np
import numpy.typing as npt

from sensorium.config import WindowConfig

Indices = npt.NDArray[np.int64]


def frame_indices(start: int, window: WindowConfig) -> Indices:
    """Frames (T,) of the recording that a window starting at `start` takes."""
    return start + window.step * np.arange(window.frames, dtype=np.int64)


def starts_count(length: int, window: WindowConfig) -> int:
    """Number of positions of the window in a trial of `length` frames; 0 where it is too short."""
    return max(0, length - window.width + 1)


def sliding_starts(length: int, window: WindowConfig) -> Indices:
    """Every position of the window in a trial of `length` frames."""
    return np.arange(starts_count(length, window), dtype=np.int64)


def separate_starts(length: int, window: WindowConfig) -> Indices:
    """Positions of windows side by side from frame 0 on; a remainder shorter than a window is left out."""
    return np.arange(0, starts_count(length, window), window.width, dtype=np.int64)
