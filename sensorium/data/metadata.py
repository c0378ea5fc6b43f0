"""Checks what no checksum of a store covers: that its arrays are all there, and that their metadata fit together."""

from pathlib import Path
from typing import Any

from sensorium.data.layout import ARRAYS, FORMAT, READABLE_VERSIONS, STATISTICS_GROUP, STATISTICS_MODALITIES
from sensorium.data.mapped import REBUILD, read_metadata
from sensorium.errors import DataError
from sensorium.mice import MODALITIES, STATISTICS
from sensorium.recovery import remedy

_OPTIONAL = "truth"
_DTYPES = {
    "videos": ("uint8", "float32"),
    "lengths": ("int64",),
    "tiers": ("uint8",),
    "labelled": ("uint8",),
    "video_hash": ("uint64",),
    "thumbnails": ("uint8",),
    "unit_ids": ("uint32",),
}
"""Of the arrays that are not float32."""
_ATTRIBUTES: dict[str, dict[str, Any]] = {"tiers": {"flag_meanings": str}, "responses": {"minimum": (int, float)}}
"""What readers need, by array."""
_KEYS = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value")
"""Without one of these, Zarr leaves an array out as if it were not there."""
_SHARED = ("trial", "row", "column", "neuron", "channel")
"""Axes as long in the statistics as in the recordings; their frames are padded as in the raw files."""


def check_group(path: Path) -> None:
    """Make sure that a store's own metadata are whole, and of a format that can be read.

    Raises:
        DataError: they are damaged, or of another format or version.
    """
    _require_group(path)
    attributes = _attributes(path)
    if attributes.get("format") != FORMAT:
        raise DataError(f"{path}: not a mouse's store.", remedy(path, REBUILD))
    if attributes.get("format_version") not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise DataError(
            f"{path}: store format {attributes.get('format_version')}, this version reads the formats {known}.",
            "Run `dvc repro ingest` to build the store anew from the raw mouse.",
        )
    _require(path, {"mouse": str, "set": str, "sources": dict})
    if set(attributes["sources"]) != set(MODALITIES):
        raise contradiction(path, f"no sources of {', '.join(MODALITIES)}")


def check_mouse(path: Path) -> None:
    """Make sure that a store is of the mouse that its folder is named after.

    Raises:
        DataError: it is of another one.
    """
    mouse = _attributes(path)["mouse"]
    if mouse != path.stem:
        raise contradiction(path, f"of the mouse {mouse}")


def check_arrays(path: Path) -> None:
    """Make sure that a store holds every array of its format, and that types, shapes and attributes agree.

    Raises:
        DataError: naming the first zarr.json that is missing, or contradicts the format or another one.
    """
    _require_group(path / STATISTICS_GROUP)
    sizes: dict[str, tuple[int, str]] = {}
    for name, spec in ARRAYS.items():
        if name != _OPTIONAL or (path / name).exists():
            shape = _check_array(path / name, _DTYPES.get(name, ("float32",)), _ATTRIBUTES.get(name, {}))
            _check_sizes(path / name, spec.dimensions, shape, sizes)
    shared = {axis: size for axis, size in sizes.items() if axis in _SHARED}
    for modality in STATISTICS_MODALITIES:
        folder = path / STATISTICS_GROUP / modality
        shape = _check_array(folder, ("float32",), {"statistics": list})
        _check_sizes(folder, ("statistic", *ARRAYS[modality].dimensions[1:]), shape, dict(shared))
        if _attributes(folder)["statistics"] != list(STATISTICS) or shape[0] != len(STATISTICS):
            raise contradiction(folder, f"not the statistics {', '.join(STATISTICS)}")


def contradiction(folder: Path, reason: str) -> DataError:
    """What is raised where a zarr.json is JSON, but not what the format asks for."""
    return DataError(f"{folder / 'zarr.json'}: {reason}: the metadata are damaged.", remedy(folder, REBUILD))


def _metadata(folder: Path) -> dict[str, Any]:
    metadata: Any = read_metadata(folder)
    if not isinstance(metadata, dict):
        raise contradiction(folder, "no metadata of Zarr")
    return metadata


def _attributes(folder: Path) -> dict[str, Any]:
    attributes = _metadata(folder).get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _require_group(folder: Path) -> None:
    metadata = _metadata(folder)
    if metadata.get("zarr_format") != 3 or metadata.get("node_type") != "group":
        raise contradiction(folder, "no group of Zarr")


def _require(folder: Path, wanted: dict[str, Any]) -> None:
    attributes = _attributes(folder)
    for key, kind in wanted.items():
        if not isinstance(attributes.get(key), kind):
            raise contradiction(folder, f"no sound attribute {key}")


def _check_array(folder: Path, dtypes: tuple[str, ...], attributes: dict[str, Any]) -> tuple[int, ...]:
    """Check one array by itself; returns its shape."""
    metadata = _metadata(folder)
    lost = [key for key in _KEYS if key not in metadata]
    if metadata.get("zarr_format") != 3 or metadata.get("node_type") != "array" or lost:
        raise contradiction(folder, f"no array of Zarr{', without ' + lost[0] if lost else ''}")
    if metadata["data_type"] not in dtypes:
        raise contradiction(folder, f"type {metadata['data_type']}, expected {' or '.join(dtypes)}")
    _require(folder, attributes)
    shape = metadata["shape"]
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise contradiction(folder, f"shape {shape}")
    return tuple(shape)


def _check_sizes(
    folder: Path, dimensions: tuple[str, ...], shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]
) -> None:
    """Compare an array's axes with those of the same name in `sizes`, and add those that are new."""
    if len(shape) != len(dimensions):
        raise contradiction(folder, f"shape {shape}, expected {', '.join(dimensions)}")
    for dimension, size in zip(dimensions, shape, strict=True):
        known, where = sizes.setdefault(dimension, (size, folder.name))
        if size != known:
            raise contradiction(folder, f"{size} along the axis {dimension}, {where} has {known}")
