"""Are two trainings of one fold equal, close, or different?

Weights and the history of metrics are compared number by number. A difference is relative to the
largest magnitude of its tensor or column: next to a zero, any other measure would be about nothing.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["bitwise", "within tolerance", "drift"]
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Outcome:
    """What a training of a fold left."""

    config: bytes | None
    """config.json, None where it is no longer at hand."""
    history: bytes | None
    """history.csv."""
    weights: Path | None
    """model.safetensors."""

    @classmethod
    def of(cls, folder: Path) -> "Outcome":
        """The outcome in a fold's folder, as far as its files are there."""
        config, history, weights = (folder / name for name in ("config.json", "history.csv", "model.safetensors"))
        return cls(_read(config), _read(history), weights if weights.is_file() else None)

    @property
    def digest(self) -> str | None:
        """SHA-256 of the weights, also where the file itself is gone."""
        if self.config is not None:
            return str(json.loads(self.config)["weights"]["sha256"])
        return None if self.weights is None else hashlib.sha256(self.weights.read_bytes()).hexdigest()

    @property
    def provenance(self) -> dict[str, Any]:
        """What the training depended on; empty where it is not at hand."""
        return {} if self.config is None else dict(json.loads(self.config)["info"]["provenance"])


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@dataclass(frozen=True)
class Difference:
    """The largest relative difference in a set of arrays."""

    relative: float
    """0 for equal bits, infinite where shapes or names differ."""
    place: str
    """Tensor or column."""


@dataclass(frozen=True)
class Drift:
    """What the comparison found."""

    verdict: Verdict
    tolerance: float
    weights: Difference | None
    """None where the first weights are no longer at hand."""
    metrics: Difference | None
    """None where the first history is no longer at hand."""
    causes: list[str] = field(default_factory=list)
    """What the two trainings did not have in common, such as `torch: 2.12.0 before, 2.13.0 now`."""

    def to_json(self) -> dict[str, Any]:
        """The findings; an infinite difference is written as null."""
        tree = asdict(self)
        for found in (tree["weights"], tree["metrics"]):
            if found and math.isinf(found["relative"]):
                found["relative"] = None
        return tree


def judge(first: Outcome, again: Outcome, tolerance: float, causes: list[str] | None = None) -> Drift:
    """Compare a training, of which at least the weights' digest or the history is known, with its repetition.

    A relative difference up to the tolerance passes; 0 asks for equal bits. Causes are those that are known already.
    """
    same_weights = first.digest == again.digest
    weights = Difference(0.0, "") if same_weights else None
    if not same_weights and first.weights is not None and again.weights is not None:
        from safetensors.numpy import load_file

        weights = largest(load_file(first.weights), load_file(again.weights))
    metrics = None
    if first.history is not None and again.history is not None:
        metrics = largest(_columns(first.history), _columns(again.history))
    known = [difference.relative for difference in (weights, metrics) if difference is not None]
    verdict: Verdict = "drift"
    if (same_weights or first.digest is None) and first.history in {None, again.history}:
        verdict = "bitwise"
    elif tolerance > 0 and known and max(known) <= tolerance:  # zero asks for equal bytes, not equal numbers
        verdict = "within tolerance"
    found = differing(first.provenance, again.provenance) if first.provenance else []
    return Drift(verdict, tolerance, weights, metrics, [*found, *(causes or [])])


def largest(first: Mapping[str, NDArray[Any]], again: Mapping[str, NDArray[Any]]) -> Difference:
    """The largest relative difference between arrays of the same names."""
    odd = sorted(first.keys() ^ again.keys())
    if odd:
        return Difference(math.inf, f"{odd[0]} (only in one)")
    found = [Difference(_relative(values, again[name]), name) for name, values in first.items()]
    worst = max(found, key=lambda difference: difference.relative, default=Difference(0.0, ""))
    return worst if worst.relative else Difference(0.0, "")


def _relative(first: NDArray[Any], again: NDArray[Any]) -> float:
    if first.shape != again.shape:
        return math.inf
    if first.size == 0 or np.array_equal(first, again, equal_nan=first.dtype.kind == "f"):
        return 0.0
    before, after = first.astype(np.float64), again.astype(np.float64)
    difference = float(np.max(np.abs(after - before)) / max(float(np.max(np.abs(before))), _TINY))
    return difference if math.isfinite(difference) else math.inf


def _columns(history: bytes) -> dict[str, NDArray[Any]]:
    rows = list(csv.DictReader(io.StringIO(history.decode())))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} if rows else {}


def differing(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Leaves of nested mappings that differ, as `key: value before, value now`."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differing(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {_short(old)} before, {_short(new)} now")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
