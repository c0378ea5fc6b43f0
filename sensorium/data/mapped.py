"""Arrays of a store read straight from their chunk files, without Zarr and without copies.

Where a chunk file is the raw values and a checksum (see `sensorium.data.layout`), it is mapped into
memory, and a window is a view of it. Only the pages that a window covers are read from disk, by one
request, and no more than once for all processes.
"""

import contextlib
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from sensorium.data.layout import CRC_BYTES
from sensorium.errors import DataError
from sensorium.files import read_json
from sensorium.recovery import later_remedy, remedy

REBUILD = "Remove the store and run `dvc repro ingest`."
_SMALL_BYTES = 2**14  # stretch that is not worth a call to announce it, bytes
_ADVISED_BYTES = 2**17
"""Longest stretch announced at once, bytes: Linux's default read-ahead, beyond which it may ignore the rest."""


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as fault:  # ValueError: an empty file cannot be mapped
        raise DataError(f"{path}: the chunk cannot be read ({fault}).", remedy(path, REBUILD)) from fault


class MappedArray:
    """An array whose chunks span all axes but the first."""

    def __init__(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Take an array whose zarr.json, `metadata`, is one that `accepts`; files are opened at the first use."""
        self.folder = folder
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        self._chunk: tuple[int, ...] = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        self._chunk_bytes = math.prod(self._chunk) * self.dtype.itemsize
        self._row_bytes = math.prod(self.shape[2:]) * self.dtype.itemsize
        self._maps: dict[int, tuple[mmap.mmap, npt.NDArray[Any]]] = {}

    @staticmethod
    def accepts(metadata: dict[str, Any]) -> bool:
        """Whether the chunk files of an array with this zarr.json are raw values and a CRC-32C."""
        chunk = metadata["chunk_grid"].get("configuration", {}).get("chunk_shape", ())
        codecs = [
            (codec["name"], codec.get("configuration", {}).get("endian", "little")) for codec in metadata["codecs"]
        ]
        key = metadata["chunk_key_encoding"]
        return (
            list(chunk[1:]) == list(metadata["shape"][1:])
            and codecs == [("bytes", "little"), ("crc32c", "little")]
            and (key["name"], key.get("configuration", {}).get("separator")) == ("default", ".")
            and isinstance(metadata["data_type"], str)
        )

    def chunk_file(self, chunk: int) -> Path:
        """File of the chunk with this position along the first axis."""
        return self.folder / ".".join(["c", str(chunk), *"0" * (len(self.shape) - 1)])

    def _map(self, chunk: int) -> tuple[mmap.mmap, npt.NDArray[Any]]:
        if chunk not in self._maps:
            path = self.chunk_file(chunk)
            with _readable(path), path.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._check_size(path, len(mapped))
            mapped.madvise(mmap.MADV_RANDOM)
            values = np.frombuffer(mapped, self.dtype, math.prod(self._chunk)).reshape(self._chunk)
            self._maps[chunk] = (mapped, values)
        return self._maps[chunk]

    def frames(self, trial: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Read-only view of frames `start` to `stop` of one trial; asks the disk for exactly these pages.

        Raises:
            DataError: the chunk file is missing or has another size.
        """
        chunk, position = divmod(trial, self._chunk[0])
        mapped, values = self._map(chunk)
        first = (position * self.shape[1] + start) * self._row_bytes
        last = first + (stop - start) * self._row_bytes
        first -= first % mmap.PAGESIZE
        if last - first > _SMALL_BYTES:
            for piece in range(first, last, _ADVISED_BYTES):
                mapped.madvise(mmap.MADV_WILLNEED, piece, min(_ADVISED_BYTES, last - piece))
        return values[position, start:stop]

    def read(self) -> npt.NDArray[Any]:
        """The whole array, read in sequence and compared with its checksums.

        Raises:
            DataError: a chunk file is missing or damaged.
        """
        chunks = -(-self.shape[0] // self._chunk[0])
        return np.concatenate([self._read(chunk) for chunk in range(chunks)])[: self.shape[0]]

    def _read(self, chunk: int) -> npt.NDArray[Any]:
        path = self.chunk_file(chunk)
        with _readable(path):
            content = path.read_bytes()
        self._check_size(path, len(content))
        values, stored = content[:-CRC_BYTES], content[-CRC_BYTES:]
        if google_crc32c.value(values) != int.from_bytes(stored, "little"):
            raise DataError(
                f"{path}: its values do not match the checksum: the chunk is damaged.", remedy(path, REBUILD)
            )
        return np.frombuffer(values, self.dtype).reshape(self._chunk)

    def _check_size(self, path: Path, size: int) -> None:
        if size != self._chunk_bytes + CRC_BYTES:
            raise DataError(
                f"{path}: {size} bytes, expected {self._chunk_bytes + CRC_BYTES}: the chunk is damaged.",
                remedy(path, REBUILD),
            )


def read_metadata(folder: Path) -> dict[str, Any]:
    """The zarr.json of a group or an array.

    Raises:
        DataError: it is missing or not JSON.
    """
    metadata: dict[str, Any] = read_json(folder / "zarr.json", DataError, later_remedy(folder / "zarr.json", REBUILD))
    return metadata
