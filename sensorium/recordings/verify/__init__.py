"""Checks a raw mouse against every rule of the format, and reports all findings at once.

The structure comes first, then every value, then which trials show the same video.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sensorium.mice import MouseSet
from sensorium.recordings.phash import thumbnails
from sensorium.recordings.raw import RawMouse, is_too_deep, read_array
from sensorium.recordings.similarity import SHARE, TOLERANCE, near_pairs
from sensorium.recordings.verify.structure import Finding, Report, Structure, check_structure
from sensorium.recordings.verify.values import check_statistics, check_trial

Thumbnails = npt.NDArray[np.uint8]
__all__ = ["Finding", "Report", "verify_mouse"]


def verify_mouse(
    folder: Path,
    mouse_set: MouseSet,
    quick: bool = False,
    on_trial: Callable[[int], None] = lambda _: None,
    shortest: int = 1,
) -> Report:
    """Check a raw mouse against every rule of the format.

    Args:
        folder: the mouse's folder.
        mouse_set: the mouse's set.
        quick: check files, shapes, dtypes and meta files alone, and read no trial's values.
        on_trial: called after each trial whose values were checked, with the number of all trials.
        shortest: fewest frames of a usable trial.
    """
    report = Report(folder.name, mouse_set, quick)
    if not folder.is_dir() or is_too_deep(folder):
        report.attempt("folder", ".", lambda: RawMouse(folder))
        return report
    structure = check_structure(folder, mouse_set, report)
    if quick:
        return report
    check_statistics(folder, report)
    seen: dict[int, Thumbnails] = {}
    for trial in range(len(structure.tiers)):
        shown = check_trial(structure, trial, report, shortest)
        if shown is not None and shown[1] > 0:
            video, length = shown
            seen[trial] = thumbnails(video[..., :length].transpose(2, 0, 1))
        on_trial(len(structure.tiers))
    _check_repeats(structure, seen, report)
    return report


def _near(seen: dict[int, Thumbnails]) -> list[tuple[int, int]]:
    """Pairs of trials whose thumbnails agree by the competition's rule."""
    if not seen:
        return []
    trials = np.array(list(seen))
    counts = np.array([len(shots) for shots in seen.values()])
    stacked = np.zeros((len(trials), counts.max(), seen[int(trials[0])][0].size), dtype=np.uint8)
    for row, shots in enumerate(seen.values()):
        stacked[row, : len(shots)] = shots.reshape(len(shots), -1)
    return [(int(trials[a]), int(trials[b])) for a, b in near_pairs(stacked, counts)]


def _show_the_same(structure: Structure, first: int, second: int) -> bool:
    """The competition's rule on the videos themselves: one grey level at most on over 85 % of the frames."""
    paths = [structure.folder / structure.file("videos", trial) for trial in (first, second)]
    one, other = map(read_array, paths)
    valid = ~(np.isnan(one[0, 0]) | np.isnan(other[0, 0]))
    close = np.abs(one - other)[..., valid].max(axis=(0, 1)) <= TOLERANCE
    return bool(close.mean() > SHARE)


def _check_repeats(structure: Structure, seen: dict[int, Thumbnails], report: Report) -> None:
    """Training videos are unique within a mouse; every other tier repeats its videos."""
    repeated: set[int] = set()
    for first, second in _near(seen):
        if structure.tiers[first] != structure.tiers[second]:
            continue
        repeated |= {first, second}
        if structure.tiers[first] == "train" and _show_the_same(structure, first, second):
            message = f"shows the same video as training trial {first}"
            report.add("repeats", structure.file("videos", second), message, "warning")
    for trial in seen:
        tier = structure.tiers[trial]
        if tier not in ("train", "none") and trial not in repeated:
            message = f"tier {tier} repeats its videos, but no other trial shows this one"
            report.add("repeats", structure.file("videos", trial), message, "warning")
