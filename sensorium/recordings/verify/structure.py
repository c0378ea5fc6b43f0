"""What a verification finds, and the rules that need no values.

They are about which files there are, their shapes and dtypes, and what the meta files contain.

H W pixels, L frames with the padding, N neurons.
"""

import collections
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from sensorium.errors import DataError
from sensorium.mice import MODALITIES, STATISTICS, TIERS, MouseSet
from sensorium.recordings.raw import open_array, read_array, read_coordinates, read_tiers, read_unit_ids

Level = Literal["error", "warning"]
"""`error`: the pipeline would stop or learn nonsense. `warning`: it runs, but the format is not met."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Finding:
    """One breach of one rule."""

    rule: str
    """Short name of the rule, the same for all its breaches."""
    level: Level
    file: str
    """File or folder, relative to the mouse's."""
    message: str


@dataclass
class Report:
    """All findings on one mouse."""

    mouse: str
    mouse_set: str
    quick: bool
    """Whether values were left unread."""
    trials: int = 0
    neurons: int = 0
    tiers: dict[str, int] = field(default_factory=dict)
    """Number of trials by tier."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, rule: str, file: str, message: str, level: Level = "error") -> None:
        """Note a breach."""
        self.findings.append(Finding(rule, level, file, message))

    def attempt(self, rule: str, file: str, read: Callable[[], _Result]) -> _Result | None:
        """Call `read`; where it refuses, note why, without the path that the finding names already, and return None."""
        try:
            return read()
        except DataError as fault:
            named, _, reason = fault.problem.partition(f"/{file}: ")
            self.add(rule, file, str(fault) if rule == "folder" else reason or named)
            return None

    def count(self, level: Level) -> int:
        """Number of findings of one level."""
        return sum(finding.level == level for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as a plain tree."""
        return asdict(self) | {"errors": self.count("error"), "warnings": self.count("warning")}


@dataclass
class Structure:
    """What the headers contain; only sound files are listed."""

    folder: Path
    mouse_set: MouseSet
    tiers: list[str]
    """Tier of every trial; empty where tiers.npy is unsound."""
    sound: set[tuple[str, int]] = field(default_factory=set)
    """Modality and trial of the files whose values can be read."""

    @staticmethod
    def file(modality: str, trial: int) -> str:
        """File of a trial, relative to the mouse."""
        return f"data/{modality}/{trial}.npy"


def check_structure(folder: Path, mouse_set: MouseSet, report: Report) -> Structure:
    """Check everything but values."""
    tiers = report.attempt("tiers", "meta/trials/tiers.npy", partial(read_tiers, folder)) or []
    report.neurons = _check_neurons(folder, report)
    report.trials = len(tiers) or _count_files(folder)
    report.tiers = dict(sorted(collections.Counter(tiers).items()))
    _check_tiers(mouse_set, report)
    _check_trial_idx(folder, report)
    structure = Structure(folder, mouse_set, tiers)
    shapes = {modality: _check_files(structure, modality, report) for modality in MODALITIES}
    _check_statistics(folder, shapes, report)
    return structure


def _count_files(folder: Path) -> int:
    names = (path.stem for path in (folder / "data" / "videos").glob("*.npy"))
    return 1 + max((int(name) for name in names if name.isdigit()), default=-1)


def _check_neurons(folder: Path, report: Report) -> int:
    """Check identifiers and coordinates; returns the number of neurons, 0 where unknown."""
    file = "meta/neurons/unit_ids.npy"
    ids = report.attempt("unit_ids", file, partial(read_unit_ids, folder))
    if ids is None:
        return 0
    stored = open_array(folder / file).dtype
    if stored.kind != "u":
        report.add("unit_ids", file, f"dtype {stored}, expected unsigned integers", "warning")
    file = "meta/neurons/cell_motor_coordinates.npy"
    places = report.attempt("coordinates", file, partial(read_coordinates, folder, len(ids)))
    if places is not None and not np.isfinite(places).all():
        lost = int((~np.isfinite(places)).any(axis=1).sum())
        report.add("coordinates", file, f"{lost} neurons lie at NaN or infinity", "warning")
    return len(ids)


def _check_tiers(mouse_set: MouseSet, report: Report) -> None:
    file = "meta/trials/tiers.npy"
    if not report.tiers:
        return
    for tier in TIERS:
        if tier == "train" and tier not in report.tiers:
            report.add("tiers", file, "no trial of the tier train")
        elif tier != "none" and tier not in report.tiers:
            report.add("tiers", file, f"no trial of the tier {tier}", "warning")
    if mouse_set == "new" and "none" in report.tiers:
        report.add(
            "tiers", file, f"{report.tiers['none']} trials of the tier none, which only old mice have", "warning"
        )


def _check_trial_idx(folder: Path, report: Report) -> None:
    file = "meta/trials/trial_idx.npy"
    if not (folder / file).exists():
        return
    index = report.attempt("trial_idx", file, partial(read_array, folder / file))
    if index is not None and len(np.atleast_1d(index)) != report.trials:
        report.add("trial_idx", file, f"{np.size(index)} entries for {report.trials} trials")


def _check_files(structure: Structure, modality: str, report: Report) -> tuple[int, ...]:
    """Check every trial's file of one modality; returns the shape that they must have."""
    folder = structure.folder / "data" / modality
    if not folder.is_dir():
        report.add("files", f"data/{modality}", "the folder does not exist")
        return ()
    headers: dict[int, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for trial in range(report.trials):
        array = report.attempt("files", structure.file(modality, trial), partial(open_array, folder / f"{trial}.npy"))
        if array is not None:
            headers[trial] = (array.shape, array.dtype)
    named = {f"{trial}.npy" for trial in range(report.trials)}
    for extra in sorted({path.name for path in folder.iterdir()} - named):
        report.add("files", f"data/{modality}/{extra}", "belongs to no trial of tiers.npy", "warning")
    expected = _expected_shape(modality, [shape for shape, _ in headers.values()], report.neurons)
    for trial, (shape, dtype) in headers.items():
        if _is_sound(structure.file(modality, trial), modality, shape, dtype, expected, report):
            structure.sound.add((modality, trial))
    return expected


def _expected_shape(modality: str, shapes: list[tuple[int, ...]], neurons: int) -> tuple[int, ...]:
    """The commonest sound shape, with the number of rows that the meta files ask for."""
    axes = 3 if modality == "videos" else 2
    commonest = collections.Counter(shape for shape in shapes if len(shape) == axes).most_common(1)
    if not commonest:
        return ()
    shape = commonest[0][0]
    if modality == "videos":
        return shape
    rows = 2 if modality != "responses" else neurons or shape[0]
    return rows, shape[1]


def _is_sound(
    file: str, modality: str, shape: tuple[int, ...], dtype: np.dtype[Any], expected: tuple[int, ...], report: Report
) -> bool:
    if dtype != np.float64:
        report.add("dtype", file, f"{dtype}, expected float64")
    if shape != expected:
        hint = f"; unit_ids.npy lists {report.neurons} neurons" if modality == "responses" else ""
        wanted = expected or ("(height, width, frames)" if modality == "videos" else "(rows, frames)")
        report.add("shape", file, f"{shape}, expected {wanted}{hint}")
    return dtype == np.float64 and shape == expected


def _check_statistics(folder: Path, shapes: dict[str, tuple[int, ...]], report: Report) -> None:
    frames = {shape[-1] for shape in shapes.values() if shape}
    if len(frames) > 1:
        report.add("shape", "data", f"modalities have time axes of {', '.join(map(str, sorted(frames)))} frames")
    for modality, expected in shapes.items():
        for name in STATISTICS:
            file = f"meta/statistics/{modality}/all/{name}.npy"
            array = report.attempt("statistics", file, partial(open_array, folder / file))
            if array is not None and expected and array.shape != expected:
                report.add("statistics", file, f"shape {array.shape}, expected that of a trial, {expected}")
            if array is not None and array.dtype != np.float64:
                report.add("statistics", file, f"{array.dtype}, expected float64")
