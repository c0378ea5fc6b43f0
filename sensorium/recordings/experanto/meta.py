"""Reads the YAML files and time stamps of an Experanto session, and checks what they say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from sensorium.errors import DataError
from sensorium.files import load_yaml
from sensorium.recordings.raw import open_array

_BLOCK = 1 << 16  # time stamps looked at at once
_REMEDY = "Correct the file, or export the session again."


class Meta:
    """A YAML file whose keys are asked for one by one."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            DataError: it is missing, not YAML, or no mapping of keys to values.
        """
        self.path = path
        try:
            tree = load_yaml(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{path}: the file does not exist.", "Export the session again, or restore it.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as fault:
            reason = " ".join(str(fault).split())
            raise DataError(f"{path}: not valid YAML ({reason}).", _REMEDY) from fault
        if not isinstance(tree, dict):
            raise DataError(f"{path}: no keys in it.", _REMEDY)
        self._tree: dict[str, Any] = tree

    def get(self, key: str, default: Any = None) -> Any:
        """The value of an optional key."""
        return self._tree.get(key, default)

    def _require(self, key: str, sound: Callable[[Any], bool], expected: str) -> Any:
        if key not in self._tree:
            raise DataError(f"{self.path}: the key {key} is missing.", f"Add `{key}: ...`, {expected}.")
        value = self._tree[key]
        if isinstance(value, bool) or not sound(value):
            raise DataError(f"{self.path}: {key}: {value!r}, expected {expected}.", _REMEDY)
        return value

    def count(self, key: str, least: int = 0) -> int:
        """A whole number.

        Raises:
            DataError: it is missing or something else.
        """
        value = self._require(key, lambda v: isinstance(v, int) and v >= least, f"a whole number from {least}")
        return int(value)

    def number(self, key: str, positive: bool = False) -> float:
        """A finite number.

        Raises:
            DataError: it is missing or something else.
        """
        value = self._require(
            key,
            lambda v: isinstance(v, (int, float)) and bool(np.isfinite(v)) and (v > 0 or not positive),
            "a positive number" if positive else "a number",
        )
        return float(value)

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """One of the known words.

        Raises:
            DataError: it is missing or something else.
        """
        return str(self._require(key, lambda v: v in known, f"one of: {', '.join(known)}"))

    def size(self, key: str) -> tuple[int, int]:
        """Rows and columns of a picture; a third number, of its colours, is left out.

        Raises:
            DataError: it is missing or something else.
        """

        def sound(value: Any) -> bool:
            whole = isinstance(value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in value)
            return whole and len(value) in (2, 3)

        height, width = self._require(key, sound, "[height, width] in pixels")[:2]
        return height, width


def read_timestamps(path: Path) -> npt.NDArray[np.float64]:
    """Map the time stamps (samples,) of a modality, seconds.

    Raises:
        DataError: the file is missing or damaged, or the stamps do not rise.
    """
    stamps = open_array(path)
    if stamps.ndim != 1 or stamps.dtype.kind not in "iuf" or not len(stamps):
        raise DataError(f"{path}: {stamps.dtype} of shape {stamps.shape}, expected one time a sample.", _REMEDY)
    for first in range(0, len(stamps), _BLOCK):
        block = np.asarray(stamps[first : first + _BLOCK + 1], np.float64)
        wrong = ~(np.diff(block) > 0)  # NaN compares as false
        if wrong.any() or not np.isfinite(block[0]):
            at = first + int(wrong.argmax())
            raise DataError(
                f"{path}: the time stamps do not rise after sample {at} ({stamps[at]} s).",
                "Sort them, and drop samples that have no time of their own.",
            )
    return stamps
