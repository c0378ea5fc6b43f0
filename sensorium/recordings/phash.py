"""Fingerprints of a video: the published perceptual hash, and thumbnails that bear a changed bit.

The hash is the standard 64-bit pHash (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html) of
five frames, combined by XOR. It is that of the library ImageHash (https://github.com/JohannesBuchner/imagehash), but
computed with whole numbers: many coefficients of a grating or a blank frame are zero, and with floating point the
rounding of the machine at hand would decide their bits and, by them, the folds. Repeats of one video differ by a grey
level here and there, which now and then flips a bit; thumbnails of block means stay within a grey level of each other.
L frames, H W pixels.
"""

import functools
import operator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sensorium.data.layout import THUMBNAIL_STEP

HASHED_FRAMES = 5
"""Frames of a video that enter its hash."""
_PICTURE_SIDE, _HASH_SIDE = 32, 8  # pixels of the resized frame and coefficients of the hash, along each axis
_COSINE_BITS = 20  # binary digits of a cosine after the point; all sums then fit 64 bits
THUMBNAIL_GRID = (4, 8)
"""Rows and columns of blocks of a thumbnail."""


def hashed_frames(length: int) -> npt.NDArray[np.int64]:
    """Indices (5,) of the frames that enter the hash of a video of `length` frames."""
    step = length // HASHED_FRAMES
    return step // 2 + step * np.arange(HASHED_FRAMES)


@functools.cache
def _cosines() -> npt.NDArray[np.int64]:
    """Whole multiples (8, 32) of the lowest frequencies of the discrete cosine transform, DCT-II."""
    turns = np.outer(np.arange(_HASH_SIDE), 2 * np.arange(_PICTURE_SIDE) + 1) / (4 * _PICTURE_SIDE)
    cosines: npt.NDArray[np.int64] = np.rint(np.cos(2 * np.pi * turns) * 2**_COSINE_BITS).astype(np.int64)
    return cosines


def frame_hash(frame: npt.NDArray[np.uint8]) -> int:
    """64-bit pHash of one frame (H, W), its bits read row by row, the first one the most significant.

    A bit says whether a low frequency of the frame, resized to 32 x 32 pixels, is above the median of all.
    """
    picture = Image.fromarray(frame).resize((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture).astype(np.int64)
    coefficients = (_cosines() @ pixels @ _cosines().T).reshape(-1)
    ranked = np.sort(coefficients)
    twice_the_median = ranked[len(ranked) // 2 - 1] + ranked[len(ranked) // 2]
    return int.from_bytes(np.packbits(2 * coefficients > twice_the_median).tobytes(), "big")


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
    pixels = np.ones((1, *video.shape[1:]), dtype=np.int64)
    return (_block_sums(frames) // _block_sums(pixels)).astype(np.uint8)


def _block_sums(frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    for axis, blocks in enumerate(THUMBNAIL_GRID, start=1):
        size = frames.shape[axis]
        edges = np.arange(min(blocks, size)) * size // min(blocks, size)
        frames = np.add.reduceat(frames, edges, axis=axis)
    return frames
