"""The pictures of a movie in an NWB file, one read at a time: an ImageSeries, its external films, or Images."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.pictures import film_frames, film_length
from sensorium.recordings.nwb.groups import in_order

if TYPE_CHECKING:
    import h5py

_CONVERT = "Write the frames into the file as ImageSeries."


class Pictures(Protocol):
    """Pictures by their index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        """A picture (rows, columns) or (rows, columns, 3)."""
        ...


class _Images:
    """A container of single images, in its `order_of_images`; without one, ordered by the numbers in their names."""

    def __init__(self, group: "h5py.Group") -> None:
        if "order_of_images" in group:
            file = group.file
            self._images = [file[reference] for reference in group["order_of_images"][()]]
        else:
            self._images = [group[name] for name in sorted(group, key=in_order)]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        picture: npt.NDArray[Any] = self._images[index][()]
        return picture


class _Films:
    """Films in other files, decoded from front to back: an index below the last one starts over."""

    def __init__(self, series: "h5py.Group") -> None:
        folder, names = Path(series.file.filename).parent, series["external_file"]
        self._films = [folder / (name.decode() if isinstance(name, bytes) else name) for name in names[()]]
        for film in self._films:
            if not film.is_file():
                raise DataError(f"{film}: the film of {series.name} is missing.", "Put it where the NWB file names it.")
        if "timestamps" in series:
            self._length = len(series["timestamps"])
        else:
            self._length = sum(film_length(film, DataError, _CONVERT) for film in self._films)
        self._restart()

    def _restart(self) -> None:
        self._frames = self._decode()
        self._next = 0

    def _decode(self) -> Iterator[npt.NDArray[np.uint8]]:
        for film in self._films:
            yield from film_frames(film, DataError, _CONVERT)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        if index < self._next:
            self._restart()
        for frame in self._frames:
            self._next += 1
            if self._next > index:
                return frame
        raise DataError(
            f"{self._films[-1]}: ends before frame {index}, but {self._length} are shown.", "Restore the whole film."
        )


def open_pictures(node: "h5py.Group") -> Pictures:
    """Open the pictures of an ImageSeries or an Images container.

    Raises:
        DataError: it is neither, or its frames are not (frames, rows, columns) or in colours.
    """
    if "external_file" in node:
        return _Films(node)
    if "data" not in node:
        return _Images(node)
    data = node["data"]
    if data.ndim not in (3, 4) or 0 in data.shape:
        raise DataError(
            f"{node.file.filename}: {data.name}: shape {data.shape}, expected (frames, rows, columns).", _CONVERT
        )
    pictures: Pictures = data
    return pictures
