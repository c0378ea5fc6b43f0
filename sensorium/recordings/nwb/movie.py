"""The movie of an NWB file, brought to 30 Hz: the picture in force at the middle of each 1/30 s.

L frames, H W pixels.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensorium.errors import DataError
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.pictures import LUMA, fit_picture
from sensorium.recordings.nwb.groups import child, find, read_column, times_of
from sensorium.recordings.nwb.mapping import MAP_REMEDY, MovieMap
from sensorium.recordings.nwb.pictures import Pictures, open_pictures
from sensorium.recordings.nwb.signals import Clock, Float64Array

if TYPE_CHECKING:
    import h5py

_LINKS = ("indexed_images", "indexed_timeseries")


class Movie:
    """Pictures, and the times at which they appear; one picture is read at a time."""

    def __init__(self, file: "h5py.File", node: "h5py.Group", place: MovieMap) -> None:
        """Open the movie.

        Raises:
            DataError: the file lacks what the mapping names.
        """
        self._place, self._name = place, f"{file.filename}: {node.name}"
        self._pictures = self._templates(file, node)
        self._indices: npt.NDArray[np.int64] | None = None
        """Picture of every row; None where the rows are the pictures."""
        self._stops: Float64Array | None = None
        if place.frame is not None:
            self._indices = read_column(node, place.frame).astype(np.int64)
            times = read_column(node, "start_time").astype(np.float64)
            self._stops = read_column(node, "stop_time") if place.rate is not None else None
        elif self._is_index(node):
            self._indices = child(node, "data")[()].astype(np.int64)
            times = times_of(node, len(self._indices))
        else:
            times = times_of(node, len(self._pictures))
        self._clock = Clock(node, len(self._pictures) if self._indices is None else len(self._indices), times)

    def _is_index(self, node: "h5py.Group") -> bool:
        return self._place.templates is not None or any(link in node for link in _LINKS)

    def _templates(self, file: "h5py.File", node: "h5py.Group") -> Pictures:
        if self._place.templates is not None:
            return open_pictures(find(file, self._place.templates))
        if self._place.frame is not None:
            raise DataError(f"{file.filename}: movie.frame needs movie.templates.", MAP_REMEDY)
        linked = [link for link in _LINKS if link in node]
        return open_pictures(node[linked[0]] if linked else node)

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of the first picture, pixels."""
        rows, columns = self._pictures[0].shape[:2]
        return rows, columns

    def video(self, grid: Float64Array, max_gap: float, frame_shape: tuple[int, int]) -> Float64Array:
        """What was shown (H, W, L) in the 1/30 s from each time on; NaN where no picture is in force.

        Args:
            grid: times (L,), seconds.
            max_gap: how long a picture stays in force, seconds.
            frame_shape: rows and columns that the pictures are brought to.

        Raises:
            DataError: a picture does not exist or is damaged.
        """
        shown = self._shown(grid + 0.5 / FRAMES_PER_SECOND, max_gap)
        video = np.full((*frame_shape, len(grid)), np.nan)
        for index in np.unique(shown[~np.isnan(shown)]).astype(int).tolist():
            video[..., shown == index] = self._picture(index, frame_shape)
        return video

    def _shown(self, moments: Float64Array, max_gap: float) -> Float64Array:
        """Index (L,) of the picture in force at each moment, NaN where there is none."""
        position = self._clock.shown(moments, np.inf if self._stops is not None else max_gap)
        missing = position < 0
        row = self._clock.rows[position] if len(self._clock.rows) else position
        if self._indices is None:
            return np.where(missing, np.nan, row)
        index = self._indices[row].astype(np.float64)
        if self._stops is not None:
            assert self._place.rate is not None, "stops are read where there is a rate"
            missing |= moments > self._stops[row]
            index += np.floor((moments - self._clock.times[position]) * self._place.rate)
        return np.where(missing, np.nan, index)

    def _picture(self, index: int, frame_shape: tuple[int, int]) -> npt.NDArray[Any]:
        """A picture as frames (H, W, 1)."""
        if 0 <= index < len(self._pictures):
            picture = self._pictures[index].astype(np.float32)
            if picture.ndim == 3:
                picture = picture @ LUMA
            return fit_picture(picture, frame_shape)[..., None]
        if self._place.blank is not None:
            return np.full((*frame_shape, 1), self._place.blank)
        raise DataError(
            f"{self._name}: image {index}, but there are {len(self._pictures)}.",
            "Correct movie.templates of the mapping, or give the grey level of a screen without image as movie.blank.",
        )
