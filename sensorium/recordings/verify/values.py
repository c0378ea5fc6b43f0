"""Rules about values: NaN tails, ranges, withheld responses, statistics.

L frames with the padding.
"""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.mice import MODALITIES, STATISTICS, labelled_tiers
from sensorium.recordings.raw import read_array
from sensorium.recordings.verify.structure import Level, Report, Structure

Float64Array = npt.NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)  # stores are float32
_RANGES = {"videos": (0.0, 255.0), "responses": (0.0, _LARGEST)}  # smallest and largest value of a modality


def check_trial(structure: Structure, trial: int, report: Report, shortest: int = 1) -> tuple[Float64Array, int] | None:
    """Check the values of one trial, reading each of its files once; `shortest` is the fewest frames it may have.

    Returns:
        The video (H, W, L) and its valid length, or None where it cannot be read.
    """
    arrays: dict[str, Float64Array] = {}
    for modality in MODALITIES:
        if (modality, trial) in structure.sound:
            file = structure.file(modality, trial)
            array = report.attempt("files", file, partial(read_array, structure.folder / file))
            if array is not None:
                arrays[modality] = array
    level: Level = "warning" if structure.tiers[trial] == "none" else "error"
    lengths = {
        modality: _check_array(structure.file(modality, trial), modality, array, level, report)
        for modality, array in arrays.items()
    }
    withheld = "responses" in arrays and _check_labels(structure, trial, arrays["responses"], report)
    if withheld:
        lengths.pop("responses")
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{modality} {length}" for modality, length in lengths.items())
        report.add("tails", structure.file("videos", trial), f"valid lengths of the modalities differ: {text}", level)
    _check_length(structure, trial, lengths, shortest, report)
    return (arrays["videos"], lengths["videos"]) if "videos" in arrays else None


def _check_length(structure: Structure, trial: int, lengths: dict[str, int], shortest: int, report: Report) -> None:
    """Check that a window covers every frame; one without any is reported for its tail, unusable ones may be short."""
    length = min(lengths.values(), default=0)
    if structure.tiers[trial] != "none" and 0 < length < shortest:
        message = f"{length} frames, fewer than the {shortest} that the window of params.yaml needs to predict each"
        report.add("length", structure.file("videos", trial), message)


def _check_array(file: str, modality: str, array: Float64Array, level: Level, report: Report) -> int:
    """Check one file's NaN tail and range; returns its valid length."""
    missing = np.isnan(array.reshape(-1, array.shape[-1]))
    partly = missing.any(axis=0)
    length = int(partly.argmax()) if partly.any() else array.shape[-1]
    if length == 0 and missing.all():
        report.add("tails", file, "not one valid frame, all values are NaN", level)
    elif not missing[:, length:].all():
        report.add("tails", file, f"NaN at frame {length}, but values after it", level)
    if modality == "videos" and _is_scaled(array):
        report.add("range", file, "grey levels from 0 to 1, expected 0 to 255", level)
    low, high = _RANGES.get(modality, (-_LARGEST, _LARGEST))
    with np.errstate(invalid="ignore"):
        outside = (array < low) | (array > high) | np.isinf(array)
    if outside.any():
        report.add("range", file, f"{int(outside.sum())} values outside {low:g} to {high:g}, or infinite", level)
    return length


def _is_scaled(video: Float64Array) -> bool:
    """Whether grey levels were divided by 255: none is above 1, and fractions are among them."""
    top = video[:, :, 0].max()  # a look at one frame rules out nearly all
    if not top <= 1:
        return False
    valid = video[np.isfinite(video)]
    return bool((valid <= 1).all() and (valid % 1 > 0).any())


def _check_labels(structure: Structure, trial: int, responses: Float64Array, report: Report) -> bool:
    """Check that responses are there when they should be; returns whether they are withheld, all zero."""
    tier = structure.tiers[trial]
    zero = not np.nan_to_num(responses).any()
    file = structure.file("responses", trial)
    labelled = tier in labelled_tiers(structure.mouse_set)
    if labelled and zero and np.isfinite(responses).any():
        if "test" in tier:
            message = f"all zero, tier {tier}: not yet released, the trial is taken as unlabelled"
            report.add("withheld", file, message, "warning")
        else:
            report.add("withheld", file, f"all zero, but tier {tier} is labelled")
    if not labelled and not zero and tier != "none":
        message = f"not all zero, but tier {tier} is withheld for new mice; the values are ignored"
        report.add("withheld", file, message, "warning")
    return zero


def check_statistics(folder: Path, report: Report) -> None:
    """Check that the statistics are finite somewhere, ordered, and never negative where they cannot be."""
    for modality in MODALITIES:
        found = {}
        for name in STATISTICS:
            with contextlib.suppress(DataError):  # the structure's findings name it
                array = read_array(folder / "meta" / "statistics" / modality / "all" / f"{name}.npy")
                if array.dtype == np.float64:
                    found[name] = array
        where = f"meta/statistics/{modality}/all"
        for name, array in found.items():
            if not np.isfinite(array).any():
                report.add("statistics", f"{where}/{name}.npy", "not one finite value")
            if np.isinf(array).any():
                report.add("statistics", f"{where}/{name}.npy", "infinite values")
        if len(found) == len(STATISTICS) and len({array.shape for array in found.values()}) == 1:
            _check_order(where, found, report)


def _check_order(where: str, found: dict[str, Any], report: Report) -> None:
    with np.errstate(invalid="ignore"):
        if (found["std"] < 0).any():
            report.add("statistics", f"{where}/std.npy", "negative values")
        for name in ("mean", "median"):
            slack = 1e-6 * (1 + np.abs(found[name]))
            if ((found[name] < found["min"] - slack) | (found[name] > found["max"] + slack)).any():
                report.add("statistics", f"{where}/{name}.npy", "values outside min.npy to max.npy")
