"""The published form of a checkpoint: its names, shapes and settings, mapped to ours and back bit by bit.

A published .pth is `torch.save` of {"model_name", "params", "nn_state_dict"}, of plain values and tensors
alone. Its kernels have five dimensions in the core and three behind it; ours are the same numbers without
the axes of length one.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from sensorium.architectures import ModelConfig
from sensorium.config import TrainingConfig, WindowConfig
from sensorium.errors import CheckpointError
from sensorium.model.dwiseneuro_config import DwiseNeuroConfig
from sensorium.model.layers import INPUT_CHANNELS

MODEL_NAME = "MouseModel"
ARCHITECTURE = "dwiseneuro"
FILE_PATTERN = re.compile(r"model-(?P<epoch>\d+)-(?P<score>-?\d+\.\d+)\.pth")
"""Name of a published checkpoint: epoch from 0, validation correlation."""
_KEYS = {"model_name", "params", "nn_state_dict"}
_REMEDY = "Take the file from the published weights again; a complete one is read as it is."
_UNITS = {
    "expand.conv": "conv_pw.0",
    "expand.norm": "conv_pw.1.bn",
    "space.conv": "spat_covn_dw.0",
    "space.norm": "spat_covn_dw.1.bn",
    "time.conv": "temp_covn_dw.0",
    "time.norm": "temp_covn_dw.1.bn",
    "project.reduce": "se.conv_reduce",
    "project.expand": "se.conv_expand",
    "project.project": "conv_pwl.0",
    "project.norm": "conv_pwl.1.bn",
    "shortcut.norm": "bn_sc.bn",
}
_CORTEX_UNITS = {"mix": "conv", "norm": "bn.bn", "shortcut": "bn_sc.bn"}


_SETTINGS = {
    "features": "core_features",
    "strides": "spatial_strides",
    "spatial_kernel": "spatial_kernel",
    "temporal_kernel": "temporal_kernel",
    "expansion": "expansion_ratio",
    "se_reduction": "se_reduce_ratio",
    "cortex_features": "cortex_features",
    "cortex_groups": "groups",
    "readout_groups": "groups",
    "softplus_beta": "softplus_beta",
    "readout_dropout": "drop_rate",
    "drop_path": "drop_path_rate",
    "cortex_drop_path": "drop_path_rate",
}
"""Published name by that of our setting."""


def published_name(name: str) -> str:
    """Published name of one of our state entries, such as `core.blocks.3.time.norm.bias`."""
    owner, _, entry = name.rpartition(".")
    part, _, unit = owner.partition(".")
    if part == "core" and unit.startswith("stem"):
        return f"core.{unit.replace('conv', '0').replace('norm', '1.bn')}.{entry}"
    if part == "core":
        _, index, inner = unit.split(".", 2)
        if inner == "position":
            return f"core.blocks.{2 * int(index)}.inv_freq"
        return f"core.blocks.{2 * int(index) + 1}.{_UNITS[inner]}.{entry}"
    index, _, inner = unit.partition(".")
    if part == "cortex":
        return f"cortex.layers.{index}.{_CORTEX_UNITS[inner]}.{entry}"
    assert part == "readouts", name
    return f"readouts.{index}.layer.1.{entry}"


def published_shape(name: str, shape: torch.Size) -> tuple[int, ...]:
    """Shape that our entry `name` of shape `shape` has in the published form."""
    if len(shape) < 2:
        return tuple(shape)
    if name.startswith("core."):
        kernel = (1, *shape[2:]) if ".space." in name else shape[2:]
        return (*shape[:2], *kernel, *(1,) * (3 - len(kernel)))
    return (*shape, 1)


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state entries under the published names and shapes."""
    return {published_name(name): entry.reshape(published_shape(name, entry.shape)) for name, entry in state.items()}


def from_published(entries: Mapping[str, Tensor], template: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Published entries under our names and shapes.

    Args:
        entries: `nn_state_dict` of the published file.
        template: state entries of our model, for names, shapes and types; may lie on the meta device.
        source: file name for messages.

    Raises:
        CheckpointError: entries are missing, unknown, or of another shape or type.
    """
    names = {published_name(name): name for name in template}
    odd = sorted(set(names) ^ set(entries))
    if odd:
        state = "missing" if odd[0] in names else "unknown"
        raise CheckpointError(f"{source}: entry {odd[0]!r} is {state} ({len(odd)} entries differ).", _REMEDY)
    found = {}
    for published, name in names.items():
        entry, expected = entries[published], template[name]
        shape = published_shape(name, expected.shape)
        if not isinstance(entry, Tensor) or tuple(entry.shape) != shape or entry.dtype != expected.dtype:
            raise CheckpointError(
                f"{source}: entry {published!r} is {_describe(entry)}, expected {_describe(expected.reshape(shape))}.",
                _REMEDY,
            )
        found[name] = entry.reshape(expected.shape)
    return found


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a published file without running code from it.

    Returns:
        `params` and `nn_state_dict`.

    Raises:
        CheckpointError: truncated, not a torch file, holding more than plain values, or not of the model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file does not exist.", _REMEDY) from None
    except Exception as fault:  # damaged bytes make PyTorch's unpickler raise nearly anything
        reason = str(fault).strip().partition("\n")[0]
        raise CheckpointError(f"{path}: damaged or not a published checkpoint ({reason}).", _REMEDY) from fault
    if not isinstance(content, dict) or set(content) != _KEYS:
        raise CheckpointError(f"{path}: not a published checkpoint, its keys are not {sorted(_KEYS)}.", _REMEDY)
    if content["model_name"] != MODEL_NAME:
        raise CheckpointError(f"{path}: holds a {content['model_name']!r}, expected a {MODEL_NAME!r}.", _REMEDY)
    params, state = content["params"], content["nn_state_dict"]
    if not isinstance(params, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path}: not a published checkpoint, it holds no settings or no entries.", _REMEDY)
    return params, state


def write(path: Path, params: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write the published form of our state entries to `path`."""
    entries = {name: entry.detach().cpu().clone() for name, entry in to_published(state).items()}
    torch.save({"model_name": MODEL_NAME, "params": dict(params), "nn_state_dict": entries}, path)


def settings(
    params: Mapping[str, Any], canvas: tuple[int, int], source: str
) -> tuple[DwiseNeuroConfig, WindowConfig, list[int]]:
    """Settings that published `params` stand for.

    Args:
        params: as read from the file.
        canvas: height and width of the input, where `params` does not contain it.
        source: file name for messages.

    Returns:
        The model, the window, and the number of neurons of each readout.

    Raises:
        CheckpointError: another architecture, or settings without our counterpart.
    """
    try:
        architecture, net = params["nn_module"]
        if architecture != ARCHITECTURE:
            raise CheckpointError(f"{source}: the model is a {architecture!r}, expected a {ARCHITECTURE!r}.", _REMEDY)
        canvas = params.get("inputs_processor", ("", {}))[1].get("size", canvas)
        model = DwiseNeuroConfig(canvas=canvas, **{ours: net[name] for ours, name in _SETTINGS.items()})
        stack = params["frame_stack"]
        window = WindowConfig(frames=stack["size"], step=stack["step"])
        return model, window, list(net["readout_outputs"])
    except (KeyError, TypeError, IndexError, AttributeError, ValidationError) as fault:
        raise CheckpointError(f"{source}: its params are not those of a {ARCHITECTURE}: {fault!r}.", _REMEDY) from fault


def require_form(model: ModelConfig, experiment: str) -> DwiseNeuroConfig:
    """Make sure that a model is of the architecture that the published form is of.

    Raises:
        CheckpointError: it is another architecture.
    """
    if not isinstance(model, DwiseNeuroConfig):
        raise CheckpointError(
            f"experiments.{experiment}.model.architecture: the published form holds a {ARCHITECTURE}, "
            f"not a {model.architecture}.",
            "Name an experiment of that architecture; `dvc push` and `dvc pull` exchange trained folds of any.",
        )
    return model


def make_params(
    model: DwiseNeuroConfig, window: WindowConfig, neurons: list[int], recipe: TrainingConfig
) -> dict[str, Any]:
    """The published `params` of a model trained here.

    Raises:
        CheckpointError: the published form cannot distinguish the settings.
    """
    net: dict[str, Any] = {"readout_outputs": neurons, "in_channels": INPUT_CHANNELS}
    for ours, name in _SETTINGS.items():
        if net.setdefault(name, getattr(model, ours)) != getattr(model, ours):
            other = next(key for key, value in _SETTINGS.items() if value == name)
            raise CheckpointError(
                f"model.{ours}: differs from model.{other}; the published form has one number for both.",
                "Only models in which they are equal can be exported.",
            )
    return {
        "nn_module": (ARCHITECTURE, net),
        "loss": ("mice_poisson", {"log_input": False, "full": False, "eps": 1e-8}),
        "optimizer": ("AdamW", {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}),
        "device": "cpu",
        "frame_stack": {"size": window.frames, "step": window.step, "position": "last"},
        "inputs_processor": ("stack_inputs", {"size": model.canvas, "pad_fill_value": 0.0}),
        "responses_processor": ("identity", {}),
        "amp": recipe.precision == "16-mixed",
        "iter_size": recipe.iter_size,
    }


def to_json(value: Any, source: str) -> Any:
    """A plain value in a JSON form that `from_json` reads back equal, tuples included.

    Raises:
        CheckpointError: the value is not plain.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [to_json(part, source) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[to_json(key, source), to_json(part, source)] for key, part in value.items()]}
    raise CheckpointError(f"{source}: its params hold a {type(value).__name__}, expected plain values.", _REMEDY)


def from_json(value: Any) -> Any:
    """Undo `to_json`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "float":
            return float(content)
        case "list":
            return [from_json(part) for part in content]
        case "tuple":
            return tuple(from_json(part) for part in content)
    assert kind == "dict", kind
    return {from_json(key): from_json(part) for key, part in content}
