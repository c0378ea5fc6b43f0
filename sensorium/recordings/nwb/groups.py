"""Finds groups and columns in an NWB file, and says what is there where they are missing."""

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.recordings.nwb.mapping import MAP_REMEDY
from sensorium.recordings.nwb.signals import Float64Array

if TYPE_CHECKING:
    import h5py


def in_order(name: str) -> list[tuple[str, int]]:
    """Sorting key by the numbers in a name: plane 2 comes before plane 10."""
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def expand(file: "h5py.File", pattern: str) -> list[str]:
    """Paths that a path stands for whose last name may hold `*`, in the order of their numbers.

    Raises:
        DataError: there is none.
    """
    parent, _, last = pattern.rpartition("/")
    group = file.get(parent) if parent else file
    names = list(group) if hasattr(group, "keys") else []
    found = [name for name in names if name == last or fnmatchcase(name, last)]
    if not found:
        there = f"; /{parent} holds: {', '.join(names) or 'nothing'}" if hasattr(group, "keys") else ""
        raise DataError(f"{file.filename}: there is no {pattern}{there}.", MAP_REMEDY)
    return [f"{parent}/{name}" for name in sorted(found, key=in_order)]


def find(file: "h5py.File", pattern: str) -> "h5py.Group":
    """The one group that a path stands for.

    Raises:
        DataError: there is none, or there are several.
    """
    found = expand(file, pattern)
    if len(found) > 1:
        names = ", ".join(path.rpartition("/")[2] for path in found)
        raise DataError(f"{file.filename}: {pattern} stands for {len(found)} groups: {names}.", "Name one of them.")
    return file[found[0]]


def child(group: "h5py.Group", name: str) -> "h5py.Dataset":
    """A member of a group.

    Raises:
        DataError: it is not there.
    """
    return find(group.file, f"{group.name.strip('/')}/{name}")


def read_column(table: "h5py.Group", name: str) -> npt.NDArray[Any]:
    """A column of a table, text decoded.

    Raises:
        DataError: it is not there.
    """
    values: npt.NDArray[Any] = child(table, name)[()]
    if values.dtype != object:
        return values
    return np.array([value.decode() if isinstance(value, bytes) else value for value in values])


def times_of(series: "h5py.Group", count: int) -> Float64Array:
    """Times of the samples of a series, seconds, from its time stamps or its rate.

    Raises:
        DataError: it has neither.
    """
    if "timestamps" in series:
        return np.asarray(series["timestamps"][()], np.float64)
    start = child(series, "starting_time")
    return np.asarray(float(start[()]) + np.arange(count) / float(start.attrs["rate"]))
