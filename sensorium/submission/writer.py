"""Submission files: one row per trial, written as they come, so that memory holds one trial.

The competition requires parquet, compressed with brotli, two files per track in one zip without
folders (arXiv:2305.19654 and the competition's starting kit).
"""

import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sensorium import files
from sensorium.config import EvaluationConfig
from sensorium.data.store import MouseStore
from sensorium.errors import PredictionError
from sensorium.inference.predictions import Predictions
from sensorium.metrics import response_precision
from sensorium.mice import SUBMISSION_NAMES

SCHEMA = pa.schema(
    [
        ("mouse", pa.string()),
        ("trial_indices", pa.int64()),
        ("prediction", pa.list_(pa.list_(pa.float64()))),  # neurons x frames, normalised
        ("neuron_ids", pa.list_(pa.uint32())),  # the order of unit_ids
    ]
)

COMPRESSION_LEVEL = 1
"""Brotli's level: predictions are noise to a compressor, higher levels cost minutes and save little."""
SUFFIX = ".parquet.brotli"

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Earliest date that a zip can hold: equal files give equal zips."""


@dataclass(frozen=True)
class Row:
    """One trial of a submission."""

    mouse: str
    trial: int
    prediction: NDArray[np.floating]
    """(N, scored frames), normalised."""
    unit_ids: NDArray[np.unsignedinteger]

    def table(self) -> pa.Table:
        """The row as an Arrow table; no value becomes a Python object."""
        neurons, frames = self.prediction.shape
        values = pa.array(np.ascontiguousarray(self.prediction, np.float64).ravel())
        series = pa.ListArray.from_arrays(pa.array(np.arange(0, neurons * frames + 1, frames, dtype=np.int32)), values)
        columns = [
            pa.array([self.mouse]),
            pa.array([self.trial]),
            pa.ListArray.from_arrays(pa.array([0, neurons], pa.int32()), series),
            pa.ListArray.from_arrays(pa.array([0, neurons], pa.int32()), pa.array(self.unit_ids, pa.uint32())),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def tier_rows(
    stores: Sequence[MouseStore], predictions: Predictions, tier: str, config: EvaluationConfig
) -> Iterator[Row]:
    """The rows of a tier: mice in the order given, trials ascending.

    Args:
        stores: the mice of the competition.
        predictions: of the tier, not normalised.
        tier: such as live_test_main.
        config: which frames are submitted.

    Raises:
        PredictionError: a prediction is missing, of another mouse, not finite, or a trial is too short.
    """
    stop = config.first_frame + config.frames
    for store in stores:
        precision = response_precision(store.statistics("responses", "std").T)[:, config.first_frame : stop]
        for trial in np.flatnonzero(store.tiers == tier).tolist():
            length = int(store.lengths[trial])
            if length < stop:
                raise PredictionError(
                    f"{store.name}, trial {trial}: {length} frames, a submission needs {stop}.",
                    "Set evaluation.first_frame and evaluation.frames to what the competition scores.",
                )
            prediction = predictions.load(store.name, trial, (store.neurons, length))[:, config.first_frame : stop]
            # float32 holds all that the model knows, and the halved entropy halves the file
            yield Row(store.name, trial, (prediction * precision).astype(np.float32), store.unit_ids)


def write_submission(path: Path, rows: Iterable[Row]) -> int:
    """Write one submission file atomically, one row group per trial.

    Args:
        path: the final name.
        rows: the trials, consumed one by one.

    Returns:
        The number of rows.

    Raises:
        PredictionError: there are no rows, or what `rows` raises; nothing is left on disk.
    """
    count = 0
    options = {"compression": "brotli", "compression_level": COMPRESSION_LEVEL, "use_dictionary": False}
    with files.atomic_file(path) as partial:
        with pq.ParquetWriter(partial, SCHEMA, write_statistics=False, **options) as writer:
            for row in rows:
                writer.write_table(row.table())
                count += 1
        if count == 0:
            raise PredictionError(f"{path}: there is no trial to submit.", "List a new mouse in dataset.mice.")
    return count


def write_track(
    folder: Path,
    track: str,
    parts: Sequence[tuple[str, Predictions]],
    stores: Sequence[MouseStore],
    config: EvaluationConfig,
) -> Path:
    """Write the files of a track and the zip that is handed in.

    Args:
        folder: the final folder; what is there is replaced.
        track: main or bonus; the zip's name.
        parts: tier and its predictions, live and final.
        stores: the mice of the competition.
        config: which frames are submitted.

    Returns:
        Path of the zip.

    Raises:
        PredictionError: see `tier_rows`; nothing is left on disk.
    """
    with files.atomic_folder(folder) as partial:
        written = []
        for tier, predictions in parts:
            path = partial / f"{SUBMISSION_NAMES[tier]}{SUFFIX}"
            write_submission(path, tier_rows(stores, predictions, tier, config))
            written.append(path)
        write_zip(partial / f"{track}.zip", written)
    return folder / f"{track}.zip"


def write_zip(path: Path, members: Sequence[Path]) -> None:
    """Put files side by side into a zip, not compressed again, without folders or dates."""
    with files.atomic_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for member in members:
            info = zipfile.ZipInfo(member.name, _ZIP_DATE)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as target, member.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
