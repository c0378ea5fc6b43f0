"""Writes a mouse's store through Zarr, a chunk at a time.

Equal values give equal bytes: nothing in a store depends on when, where or by whom it was written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from sensorium.data.layout import ARRAYS, FORMAT, FORMAT_VERSION, STATISTICS_GROUP, STATISTICS_UNITS, trials_per_chunk


class TrialStream:
    """Takes the trials of one array in their order and writes each chunk as soon as it is full."""

    def __init__(self, array: "zarr.Array[Any]") -> None:
        """Start at trial 0 of an array (trial, L, ...)."""
        self._array = array
        self._block = np.zeros(array.chunks, dtype=array.dtype)
        self._next = 0

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add the next trial; what it lacks to L frames stays zero."""
        position = self._next % len(self._block)
        self._block[position, : len(values)] = values
        self._next += 1
        if position + 1 == len(self._block):
            self.flush()

    def flush(self) -> None:
        """Write the trials that are not on disk yet."""
        count = (self._next - 1) % len(self._block) + 1
        self._array[self._next - count : self._next] = self._block[:count]
        self._block[:] = 0

    def close(self) -> None:
        """Write the last, unfilled chunk."""
        assert self._next == self._array.shape[0], "every trial must be appended"
        if self._next % len(self._block):
            self.flush()


class _Folder(LocalStore):
    """A folder that one process writes: without the hard links by which Zarr excludes others, as exFAT has none."""

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)


class StoreWriter:
    """A new store in an empty folder; attributes are added to `group` and its arrays."""

    def __init__(self, folder: Path, attributes: dict[str, Any]) -> None:
        """Make the group in an existing, empty folder; format and version are added to its attributes."""
        self.group = zarr.create_group(
            _Folder(folder),
            zarr_format=3,
            attributes={"format": FORMAT, "format_version": FORMAT_VERSION, **attributes},
        )

    def _create(
        self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, dimensions: tuple[str, ...], attributes: Any
    ) -> "zarr.Array[Any]":
        kind = np.dtype(dtype)
        rows = trials_per_chunk(shape[0], max(1, int(np.prod(shape[1:])) * kind.itemsize))
        return self.group.create_array(
            name,
            shape=shape,
            dtype=kind,
            chunks=(rows, *shape[1:]),
            filters=None,
            serializer=BytesCodec(endian="little"),
            compressors=[Crc32cCodec()],
            chunk_key_encoding={"name": "default", "configuration": {"separator": "."}},
            fill_value=0,
            dimension_names=dimensions,
            attributes=attributes,
            # An absent chunk reads as zeros without complaint; in a store whose chunks are all there a loss is noticed.
            config={"write_empty_chunks": True},
        )

    def add(self, name: str, values: npt.NDArray[Any], **attributes: Any) -> None:
        """Write one of `layout.ARRAYS` whole, with attributes beyond units and description."""
        self._open(name, values.shape, values.dtype, attributes)[...] = values

    def _open(
        self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, attributes: dict[str, Any]
    ) -> "zarr.Array[Any]":
        spec = ARRAYS[name]
        described = {"units": spec.units, "description": spec.description, **attributes}
        return self._create(name, shape, dtype, spec.dimensions, described)

    @contextmanager
    def trials(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[TrialStream]:
        """Open one of `layout.ARRAYS`, of shape (trial, L, ...), for writing trial after trial."""
        stream = TrialStream(self._open(name, shape, dtype, {}))
        yield stream
        stream.close()

    def add_statistics(self, modality: str, names: tuple[str, ...], values: npt.NDArray[np.float32]) -> None:
        """Write the statistics of one modality, (statistic, frame, ...), NaN after the longest trial."""
        dimensions = ("statistic", *ARRAYS[modality].dimensions[1:])
        attributes = {"units": STATISTICS_UNITS, "statistics": list(names)}
        self._create(f"{STATISTICS_GROUP}/{modality}", values.shape, values.dtype, dimensions, attributes)[...] = values
