"""Which trials show the same video, though not byte by byte.

Two trials show the same video when they differ by one grey level at most on more than 85 % of the frames
(arXiv:2305.19654). Here the rule is applied to thumbnails of every tenth frame (`sensorium.recordings.phash`):
they differ by one grey level at most wherever the frames do, so that no video has to be read again.
M trials, S thumbnails of a trial, K blocks of a thumbnail.
"""

import numpy as np
import numpy.typing as npt

TOLERANCE = 1
"""Largest difference between two frames that show the same, grey levels."""
SHARE = 0.85
"""Share of frames that two trials of one video have in common at least."""
Pairs = npt.NDArray[np.int64]


def near_pairs(thumbnails: npt.NDArray[np.uint8], counts: npt.NDArray[np.int64]) -> Pairs:
    """All pairs (P, 2) of trials that show the same video, the smaller index first.

    Trials of different length are compared over the shorter one.

    Args:
        thumbnails: (M, S, K) block means.
        counts: (M,) thumbnails before the zero padding of each trial.
    """
    levels = thumbnails.astype(np.int16)
    # A frame's mean differs no more than its blocks do: comparing means first rules out nearly all pairs.
    means = levels.mean(axis=2, dtype=np.float64)
    found = [np.empty((0, 2), dtype=np.int64)]
    for first in range(len(levels)):
        others = np.arange(first + 1, len(levels))
        for values in (means[:, :, None], levels):
            others = others[_alike(values, counts, first, others)]
        found.append(np.stack([np.full_like(others, first), others], axis=1))
    return np.concatenate(found)


def _alike(
    values: npt.NDArray[np.float64] | npt.NDArray[np.int16], counts: npt.NDArray[np.int64], first: int, others: Pairs
) -> npt.NDArray[np.bool_]:
    """Whether enough thumbnails of each of the other trials are within the tolerance of the first's."""
    common = np.minimum(counts[first], counts[others])
    inside = np.arange(values.shape[1]) < common[:, None]
    close = (np.abs(values[others] - values[first]) <= TOLERANCE).all(axis=2) & inside
    alike: npt.NDArray[np.bool_] = close.sum(axis=1) > SHARE * common
    return alike


def same_value_pairs(values: npt.NDArray[np.uint64]) -> Pairs:
    """Pairs (P, 2) of neighbours, in sorted order, that have an equal value: enough to connect all equals."""
    order = np.argsort(values, kind="stable")
    equal = values[order][1:] == values[order][:-1]
    return np.stack([order[:-1][equal], order[1:][equal]], axis=1)


def connect(count: int, pairs: Pairs) -> npt.NDArray[np.int64]:
    """Group number (count,) of each item when paired items share a group, directly or through others."""
    # Here, as only one stage of the many that read folds makes them.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    groups: npt.NDArray[np.int64] = connected_components(edges, directed=False)[1].astype(np.int64)
    return groups
