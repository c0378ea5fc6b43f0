"""Trained folds on disk: model.safetensors, config.json that describes it, history.csv.

Equal weights, settings and provenance give equal bytes: no dates, no run ids. The weights are read as plain
tensors (https://huggingface.co/docs/safetensors), never as code, and only after size and SHA-256 agree with
config.json.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, SerializeAsAny, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sensorium.architectures import ModelConfig, Section
from sensorium.config import WindowConfig
from sensorium.errors import CheckpointError
from sensorium.files import atomic_folder, digest_json, read_json, sha256, write_json
from sensorium.model.architecture import AnyModel, build
from sensorium.recovery import later_remedy, remedy

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
HISTORY = "history.csv"
_REMEDY = "Train or import the fold again."


class ModelInfo(Section):
    """All that is known of a trained fold."""

    experiment: str
    """Experiment of params.yaml."""
    fold: int
    """Fold that was held out."""
    model: SerializeAsAny[ModelConfig]
    """Architecture and shape of the model."""
    window: WindowConfig
    """Frames that the model sees."""
    mice: dict[str, int]
    """Number of neurons by mouse, in the order of the readouts."""
    units: dict[str, str] = Field(default_factory=dict)
    """Digest of the neurons' unit ids (`digest_units`) by mouse, where they were at hand."""
    scores: dict[str, Any] = Field(default_factory=dict)
    """Validation figures of the weights kept, such as epoch and correlation, by name."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Where the weights come from: code version, digests of the inputs, settings, seed; never a run or a date."""


class _WeightsInfo(Section):
    """The weights that config.json belongs to."""

    bytes: int
    sha256: str


class _Document(Section):
    """Content of config.json; the mice are a list there, as JSON objects have no order."""

    format: Literal[1] = 1
    info: ModelInfo
    readouts: tuple[str, ...]
    weights: _WeightsInfo

    @model_validator(mode="after")
    def _check_readouts(self) -> Self:
        if sorted(self.readouts) != sorted(self.info.mice):
            raise ValueError("readouts and info.mice name different mice")
        return self

    @property
    def ordered_info(self) -> ModelInfo:
        """The info with its mice in the order of the readouts."""
        return self.info.model_copy(update={"mice": {name: self.info.mice[name] for name in self.readouts}})


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode, and what is known of it."""

    model: AnyModel
    info: ModelInfo
    digest: str
    """SHA-256 over config.json's content, which holds that of the weights."""


def digest_units(unit_ids: np.ndarray[Any, np.dtype[Any]]) -> str:
    """SHA-256 of the unit ids (N,), unsigned integers, in the order of the neurons."""
    return hashlib.sha256(np.ascontiguousarray(unit_ids, dtype="<u8").tobytes()).hexdigest()


def fill(
    folder: Path, state: Mapping[str, Tensor], info: ModelInfo, extra: Mapping[str, str | bytes] | None = None
) -> None:
    """Write a trained fold into an empty folder; see `save` for the atomic form.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    weights = folder / WEIGHTS
    try:
        save_file({name: entry.detach().cpu().contiguous() for name, entry in state.items()}, weights)
        written = _WeightsInfo(bytes=weights.stat().st_size, sha256=sha256(weights))
        document = _Document(info=info, readouts=tuple(info.mice), weights=written)
        write_json(folder / CONFIG, document.model_dump(mode="json"))
        for name, content in (extra or {}).items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    except (OSError, SafetensorError) as fault:
        raise CheckpointError(
            f"{folder}: cannot be written ({fault}).",
            "Free space on the disk or make it writable, then run the command again; what was there before still is.",
        ) from fault


def save(folder: Path, model: AnyModel, info: ModelInfo, extra: Mapping[str, str | bytes] | None = None) -> None:
    """Write a trained fold atomically: whole, or what was there before.

    Args:
        folder: the fold's final folder, replaced when it exists.
        model: weights to save.
        info: goes to config.json.
        extra: content of further files, by name, such as history.csv.

    Raises:
        CheckpointError: the disk is full or not writable; `folder` is as before.
    """
    with atomic_folder(folder) as partial:
        fill(partial, model.state_dict(), info, extra)


def load(
    folder: Path,
    device: str | torch.device = "cpu",
    mice: Mapping[str, int] | None = None,
    units: Mapping[str, str] | None = None,
) -> TrainedModel:
    """Read a trained fold.

    Args:
        folder: holds model.safetensors and config.json.
        device: where to put the weights.
        mice: number of neurons by mouse, in order, that the model must have.
        units: digest of the unit ids by mouse, compared where the fold knows its own.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: files are missing, truncated or foreign, or the mice differ.
    """
    document, digest = _read_document(folder)
    info = document.ordered_info
    _check_mice(folder, info, info.mice if mice is None else mice, units or {})
    state = _read_weights(folder / WEIGHTS, document.weights)
    with torch.device("meta"):
        model = build(info.model, list(info.mice.values()))
    _check_state(folder / WEIGHTS, state, model.state_dict())
    model.load_state_dict(state, assign=True)
    return TrainedModel(model.to(device).eval(), info, digest)


def read_info(folder: Path) -> ModelInfo:
    """What is known of a trained fold, without reading the weights.

    Raises:
        CheckpointError: config.json is missing or not of this form.
    """
    return _read_document(folder)[0].ordered_info


def digest(folder: Path) -> str:
    """The digest that `TrainedModel` would have, without reading the weights.

    Raises:
        CheckpointError: config.json is missing or not of this form.
    """
    return _read_document(folder)[1]


def _read_document(folder: Path) -> tuple[_Document, str]:
    tree = read_json(folder / CONFIG, CheckpointError, later_remedy(folder, _REMEDY))
    try:
        return _Document.model_validate(tree), digest_json(tree)
    except ValidationError as faults:
        fault = faults.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise CheckpointError(f"{folder / CONFIG}: {key}: {fault['msg']}.", remedy(folder, _REMEDY)) from faults


def _read_weights(path: Path, expected: _WeightsInfo) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: the file does not exist.", remedy(path, _REMEDY))
    size = path.stat().st_size
    if size != expected.bytes:
        raise CheckpointError(f"{path}: has {size:,} bytes, expected {expected.bytes:,}.", remedy(path, _REMEDY))
    if sha256(path) != expected.sha256:
        raise CheckpointError(
            f"{path}: its SHA-256 is not the one in {CONFIG}: damaged or foreign.", remedy(path, _REMEDY)
        )
    try:
        return load_file(path)
    except SafetensorError as fault:
        raise CheckpointError(f"{path}: not a safetensors file ({fault}).", remedy(path, _REMEDY)) from fault


def _check_state(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    odd = sorted(set(found) ^ set(expected))
    if odd:
        state = "missing" if odd[0] in expected else "unknown"
        raise CheckpointError(
            f"{path}: weights of another model: entry {odd[0]!r} is {state} ({len(odd)} entries differ).",
            remedy(path, _REMEDY),
        )
    for name, entry in expected.items():
        if found[name].shape != entry.shape or found[name].dtype != entry.dtype:
            raise CheckpointError(
                f"{path}: weights of another model: entry {name!r} is {found[name].dtype} {tuple(found[name].shape)}, "
                f"expected {entry.dtype} {tuple(entry.shape)}.",
                remedy(path, _REMEDY),
            )


def _check_mice(folder: Path, info: ModelInfo, expected: Mapping[str, int], units: Mapping[str, str]) -> None:
    if list(info.mice) != list(expected):
        raise CheckpointError(
            f"{folder}: trained on the mice {', '.join(info.mice)}, expected {', '.join(expected)}.",
            "Use a fold trained on the mice of params.yaml, in their order, or change dataset.mice.",
        )
    for name, neurons in expected.items():
        if info.mice[name] != neurons:
            raise CheckpointError(
                f"{folder}: mouse {name} has {info.mice[name]} neurons there, expected {neurons}.",
                "Use a fold trained on this data, or ingest the mouse that it was trained on.",
            )
    for name, known in info.units.items():
        if units.get(name, known) != known:
            raise CheckpointError(
                f"{folder}: mouse {name} has other neurons there than in the data, or in another order.",
                "Use a fold trained on this data, or ingest the mouse that it was trained on.",
            )
