"""The baseline: windows loaded as the published solution does, written plainly.

A sample reads four whole float64 files, builds the full input on the CPU and a target for every mouse,
zeros for all but one; CutMix reads a second sample. Folds hash every labelled video at every start.
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from sensorium.data.augmentation import cut_box
from sensorium.recordings.phash import video_hash

CANVAS = (64, 64)
FRAMES = 2 * np.arange(16)
MODALITIES = ("videos", "responses", "behavior", "pupil_center")


class PublishedLoading:
    """Random windows of raw mice."""

    def __init__(self, mice: list[Path], trials: list[int], neurons: int, length: int) -> None:
        self._mice, self._trials, self._neurons, self._length = mice, trials, neurons, length
        self._rng = np.random.default_rng(0)

    def _window(self, mouse: int) -> tuple[torch.Tensor, torch.Tensor]:
        trial = self._rng.integers(self._trials[mouse])
        data = self._mice[mouse] / "data"
        video, responses, behavior, pupil = (np.load(data / name / f"{trial}.npy") for name in MODALITIES)
        frames = FRAMES + self._rng.integers(self._length - FRAMES[-1])
        inputs = np.zeros((5, len(FRAMES), *CANVAS), dtype=np.float32)
        inputs[0, :, 14:50] = video[..., frames].transpose(2, 0, 1)
        inputs[1:3] = behavior[:, frames, None, None]
        inputs[3:5] = pupil[:, frames, None, None]
        targets = np.maximum(responses[:, frames], 0).astype(np.float32)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def sample(self, index: int) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Input, a target a mouse, and the weight of each mouse."""
        mouse = index % len(self._mice)
        inputs, targets = self._window(mouse)
        if self._rng.random() < 0.5:
            other, other_targets = self._window(mouse)
            box = cut_box(self._rng.beta(1, 1), *self._rng.integers(0, CANVAS), CANVAS)
            rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
            inputs[..., rows, columns] = other[..., rows, columns]
            share = box.share(CANVAS)
            targets = (1 - share) * targets + share * other_targets
        every = [
            targets if other == mouse else torch.zeros(self._neurons, len(FRAMES)) for other in range(len(self._mice))
        ]
        return inputs, every, torch.eye(len(self._mice))[mouse]

    def batch(self, size: int) -> object:
        """A collated batch."""
        return default_collate([self.sample(index) for index in range(size)])


def hash_video(folder: Path, trial: int, length: int) -> int:
    """What the published solution does with every labelled video at every start."""
    video = np.load(folder / "data" / "videos" / f"{trial}.npy")[..., :length]
    return video_hash(video.transpose(2, 0, 1))
