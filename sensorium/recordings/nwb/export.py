"""Writes a mouse's store as one NWB file, a few trials at a time.

All signals are sampled at 30 Hz; the trials follow each other without a pause, since a store does not know when they
were shown. Each video is stored once, in stimulus/templates; a row of the table of trials says where its video begins
there. conf/nwb/sensorium.yaml reads such a file. L frames of a trial, N neurons, F frames of all trials.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensorium.data.store import MouseStore
from sensorium.mice import FRAMES_PER_SECOND
from sensorium.recordings.nwb.session import add_neurons, import_pynwb, new_file

if TYPE_CHECKING:
    import pynwb

_CHUNK_BYTES = 2**20
_EMPTY_FRAMES = 0.03
"""Duration of an unusable trial without any frame, frames: an interval of the format is never empty."""
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PredictedResponses:
    """Predictions that are written beside the recordings."""

    name: str
    """Of the series, such as distillation_001_out-of-fold."""
    load: Callable[[int], npt.NDArray[np.float32] | None]
    """(N, L) by trial; None where it was not predicted."""
    provenance: dict[str, Any]
    """What made them, as JSON."""


def export_nwb(
    store: MouseStore,
    path: Path,
    about: Mapping[str, Mapping[str, Any]],
    predictions: Sequence[PredictedResponses],
    advance: Callable[[], None],
) -> None:
    """Write a store as an NWB file.

    Args:
        store: the mouse.
        path: the file, which does not exist.
        about: what is known of the session: keys of pynwb.NWBFile in `file`, of pynwb.file.Subject in `subject`.
        predictions: what was predicted.
        advance: called once per trial for the videos and once for the responses.

    Raises:
        ConfigError: a key of `about` is unknown, or its value has the wrong type.
        DataError: pynwb is not installed, or a chunk of the store is missing or damaged.
        PredictionError: a prediction is missing or damaged.
    """
    pynwb = import_pynwb()
    import h5py

    source = _Source(store, advance)
    nwb = new_file(store.name, store.sources, about)
    nwb.add_stimulus_template(source.templates())
    source.add_trials(nwb)
    rois = add_neurons(nwb, store.unit_ids, store.coordinates)
    container = pynwb.ophys.Fluorescence(name="Responses")
    nwb.processing["ophys"].add(container)
    container.add_roi_response_series(source.responses(rois))
    _add_behavior(nwb, source)
    if predictions:
        module = nwb.create_processing_module("predictions", "Responses that models predict from video and behaviour.")
        for predicted in predictions:
            module.add(source.predicted(rois, predicted))
    with h5py.File(path, "w") as file, pynwb.NWBHDF5IO(file=file, mode="w") as io:
        io.write(nwb)


class _Source:
    """The store as one long session: what is written is read a few trials at a time."""

    def __init__(self, store: MouseStore, advance: Callable[[], None]) -> None:
        self._store, self._advance = store, advance
        self._lengths = store.lengths.tolist()
        self._shown: list[int] = []
        """Number of the video of each trial."""
        self._first: list[int] = []
        """Trial that shows each video first."""
        known: dict[bytes, int] = {}
        for trial in range(store.trials):
            video = store.view("videos", trial)
            digest = hashlib.sha256(np.ascontiguousarray(video).data).digest()
            if digest not in known:
                known[digest] = len(self._first)
                self._first.append(trial)
            self._shown.append(known[digest])

    def _data(
        self, trials: Sequence[int], read: Callable[[int], Array], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Any:
        """Compressed rows (frames, *shape) of trials, of which one is in memory, in chunks of at most 1 MiB."""
        from hdmf.backends.hdf5 import H5DataIO
        from hdmf.data_utils import DataChunkIterator

        total = sum(self._lengths[trial] for trial in trials)
        chunk = max(1, min(total, _CHUNK_BYTES // (dtype.itemsize * math.prod(shape))))
        rows = (row for trial in trials for row in read(trial).astype(dtype, copy=False))
        data = DataChunkIterator(data=rows, maxshape=(total, *shape), dtype=dtype, buffer_size=chunk)
        return H5DataIO(data=data, chunks=(chunk, *shape), compression="gzip", shuffle=True)

    def templates(self) -> "pynwb.image.ImageSeries":
        pynwb = import_pynwb()

        def read(trial: int) -> Array:
            self._advance()
            return self._store.view("videos", trial)

        for _ in range(self._store.trials - len(self._first)):
            self._advance()
        return pynwb.image.ImageSeries(
            name="videos",
            description="All videos, one after the other, each once. Grey levels, (frames, rows, columns).",
            data=self._data(self._first, read, self._store.frame_shape, self._store.frame_dtype),
            unit="n.a.",
            rate=FRAMES_PER_SECOND,
            starting_time=0.0,
        )

    def add_trials(self, nwb: "pynwb.NWBFile") -> None:
        columns = {
            "tier": "Role of the trial in the competition.",
            "video": "Number of the video; trials with equal numbers show the same video.",
            "first_frame": "Index of the video's first frame in stimulus/templates/videos.",
            "labelled": "Whether the responses are data; withheld responses are zero.",
        }
        for name, description in columns.items():
            nwb.add_trial_column(name, description)
        starts = np.concatenate([[0], np.cumsum(self._lengths)]).tolist()
        frames = np.concatenate([[0], np.cumsum([self._lengths[trial] for trial in self._first])]).tolist()
        for trial, video in enumerate(self._shown):
            nwb.add_trial(
                start_time=starts[trial] / FRAMES_PER_SECOND,
                stop_time=max(starts[trial + 1], starts[trial] + _EMPTY_FRAMES) / FRAMES_PER_SECOND,
                tier=str(self._store.tiers[trial]),
                video=video,
                first_frame=frames[video],
                labelled=bool(self._store.labels[trial]),
            )

    def series(self, read: Callable[[int], Array], channels: int | None) -> dict[str, Any]:
        """Arguments of a TimeSeries: values (F, channels), or (F,) for None."""
        shape = () if channels is None else (channels,)
        data = self._data(range(self._store.trials), read, shape, np.dtype(np.float32))
        return {"data": data, "rate": FRAMES_PER_SECOND, "starting_time": 0.0}

    def responses(self, rois: Any) -> "pynwb.ophys.RoiResponseSeries":
        pynwb = import_pynwb()

        def read(trial: int) -> Array:
            self._advance()
            return self._store.responses(trial)

        return pynwb.ophys.RoiResponseSeries(
            name="responses",
            description="Deconvolved calcium activity, as published.",
            unit="n.a.",
            rois=rois,
            **self.series(read, self._store.neurons),
        )

    def predicted(self, rois: Any, predicted: PredictedResponses) -> "pynwb.ophys.RoiResponseSeries":
        pynwb = import_pynwb()

        def read(trial: int) -> Array:
            found = predicted.load(trial)
            return np.full((self._lengths[trial], self._store.neurons), np.nan) if found is None else found.T

        return pynwb.ophys.RoiResponseSeries(
            name=predicted.name,
            description="Predicted responses; NaN in trials that were not predicted.",
            comments=json.dumps(predicted.provenance, sort_keys=True),
            unit="n.a.",
            rois=pynwb.core.DynamicTableRegion(
                name="rois", data=list(range(self._store.neurons)), description="All neurons.", table=rois.table
            ),
            **self.series(read, self._store.neurons),
        )

    def state(self, *channels: int) -> dict[str, Any]:
        """Arguments of a TimeSeries of channels of pupil dilation, running speed, pupil centre x and y."""
        columns = list(channels) if len(channels) > 1 else channels[0]
        return self.series(lambda trial: self._store.states(trial)[:, columns], len(channels) if channels[1:] else None)


def _add_behavior(nwb: "pynwb.NWBFile", source: _Source) -> None:
    pynwb = import_pynwb()
    behavior = pynwb.behavior
    running = pynwb.TimeSeries(
        name="running_speed", description="Running speed on the treadmill.", unit="cm/s", **source.state(1)
    )
    dilation = pynwb.TimeSeries(
        name="pupil_dilation", description="Dilation of the pupil.", unit="pixels", **source.state(0)
    )
    centre = behavior.SpatialSeries(
        name="pupil_center",
        description="Centre of the pupil, x and y.",
        reference_frame="The eye camera's image; its origin is not known.",
        unit="pixels",
        **source.state(2, 3),
    )
    module = nwb.create_processing_module("behavior", "Running and pupil.")
    module.add(behavior.BehavioralTimeSeries(time_series=running))
    module.add(behavior.PupilTracking(time_series=dilation))
    module.add(behavior.EyeTracking(spatial_series=centre))
