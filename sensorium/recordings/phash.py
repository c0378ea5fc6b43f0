"""Fingerprints of a video: the published perceptual hash, and thumbnails that bear a changed bit.

The hash is the standard 64-bit pHash (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html,
library: https://github.com/JohannesBuchner/imagehash) of five frames, combined by XOR. Repeats of one
video differ by a grey level here and there, which now and then flips a bit; thumbnails of block means
stay within a grey level of each other.
L frames, H W pixels.
"""

import functools
import operator
from typing import Any

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from sensorium.data.layout import THUMBNAIL_STEP

HASHED_FRAMES = 5
"""Frames of a video that enter its hash."""

THUMBNAIL_GRID = (4, 8)
"""Rows and columns of blocks of a thumbnail."""


def hashed_frames(length: int) -> npt.NDArray[np.int64]:
    """Indices (5,) of the frames that enter the hash of a video of `length` frames."""
    step = length // HASHED_FRAMES
    return step // 2 + step * np.arange(HASHED_FRAMES)


def frame_hash(frame: npt.NDArray[np.uint8]) -> int:
    """64-bit pHash of one frame (H, W), its bits read row by row, the first one the most significant."""
    bits = imagehash.phash(Image.fromarray(frame)).hash
    return int.from_bytes(np.packbits(bits.reshape(-1)).tobytes(), "big")


def video_hash(video: npt.NDArray[Any]) -> int:
    """The published hash of a video: the XOR of the pHashes of five of its frames.

    Args:
        video: valid frames alone, (L, H, W), grey levels 0..255; fractions are cut off.
    """
    frames = np.clip(video[hashed_frames(len(video))], 0, 255).astype(np.uint8)
    return functools.reduce(operator.xor, map(frame_hash, frames))


def thumbnails(video: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Block means of every tenth frame, rounded down: (ceil(L / 10), 4, 8), fewer blocks for smaller frames.

    Two frames that differ by one grey level at most have thumbnails that do so too.
    """
    frames = np.clip(video[::THUMBNAIL_STEP], 0, 255).astype(np.uint8).astype(np.int64)
    for axis, blocks in ((1, THUMBNAIL_GRID[0]), (2, THUMBNAIL_GRID[1])):
        size = frames.shape[axis]
        edges = np.arange(min(blocks, size)) * size // min(blocks, size)
        frames = np.add.reduceat(frames, edges, axis=axis)
    means: npt.NDArray[np.uint8] = (frames // _block_sizes(video.shape[1], video.shape[2])).astype(np.uint8)
    return means


def _block_sizes(height: int, width: int) -> npt.NDArray[np.int64]:
    """Number of pixels of each block, broadcastable to the thumbnails."""
    counts = []
    for size, blocks in ((height, THUMBNAIL_GRID[0]), (width, THUMBNAIL_GRID[1])):
        number = min(blocks, size)
        counts.append(np.diff(np.arange(number + 1) * size // number))
    return np.outer(counts[0], counts[1])
