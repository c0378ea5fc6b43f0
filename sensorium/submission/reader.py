"""Read any submission file, ours or a stranger's, row by row; what is wrong with its form is listed."""

import contextlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sensorium.errors import PredictionError
from sensorium.mice import SUBMISSION_NAMES, TRACKS
from sensorium.submission.writer import SCHEMA, SUFFIX

LARGEST_SUBMISSION = 64 << 30
"""Bytes that a submission may hold unpacked; those of the competition's five mice hold less than 1 GB."""
MOST_FILES = 100
"""Files that a submission may hold; a track has two."""
LARGEST_GROUP = 8 << 30
"""Bytes that a row group may hold decoded; the competition's, written as one, hold less than 5 GB."""
MOST_ROWS = 100_000
"""Rows that a file may hold; a row is a trial."""
_VALUE_BYTES = 8
_REMEDY = "`sensorium submission` writes files of the right form."


@dataclass(frozen=True)
class FoundRow:
    """One row as it is found."""

    mouse: str
    trial: int
    prediction: NDArray[np.float64]
    """(N, frames); empty where the neurons have different numbers of frames."""
    frames: tuple[int, int]
    """Fewest and most frames of a neuron."""
    unit_ids: NDArray[np.int64]


def tier_of(path: Path) -> str | None:
    """The tier that a file's name stands for; None for a name that the competition does not know."""
    known = {f"{name}{SUFFIX}": tier for tier, name in SUBMISSION_NAMES.items()}
    return known.get(path.name)


@contextlib.contextmanager
def submission_files(path: Path) -> Iterator[tuple[list[Path], list[str]]]:
    """The parquet files of a submission, unpacked for a while where it is a zip.

    Yields:
        The files, and what is wrong with the zip.

    Raises:
        PredictionError: there is no such file, or the zip is damaged.
    """
    if not path.is_file():
        raise PredictionError(f"{path}: the file does not exist.", _REMEDY)
    if not zipfile.is_zipfile(path):
        yield [path], []
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                members = [info for info in archive.infolist() if not info.filename.endswith("/")]
                _require_harmless(path, members, Path(folder))
                found = [Path(archive.extract(info, folder)) for info in members]
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, UnicodeDecodeError, OSError) as fault:
            raise PredictionError(f"{path}: the zip is damaged ({fault}).", _REMEDY) from fault
        yield found, zip_faults(names)


def _require_harmless(path: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuse a zip that no track's submission can be, before anything is written."""
    if len(members) > MOST_FILES or len({info.filename for info in members}) < len(members):
        raise PredictionError(f"{path}: the zip holds {len(members)} files, or two of one name.", _REMEDY)
    if any(not info.filename for info in members):
        raise PredictionError(f"{path}: a file in the zip has no name.", _REMEDY)
    size = sum(info.file_size for info in members)
    if size > LARGEST_SUBMISSION:
        raise PredictionError(f"{path}: {size / 2**30:.0f} GiB unpacked are more than any submission holds.", _REMEDY)
    if size > (free := shutil.disk_usage(folder).free):
        raise PredictionError(
            f"{path}: {size / 2**30:.1f} GiB unpacked, but {folder} has {free / 2**30:.1f} GiB left.",
            "Free space there, or set TMPDIR to another disk.",
        )


def zip_faults(names: list[str]) -> list[str]:
    """What is wrong with the members of a zip: a track's two files and nothing else, in no folder."""
    faults = [
        f"the zip holds {name} in a folder, the server looks for files side by side" for name in names if "/" in name
    ]
    tracks = {track: sorted(f"{SUBMISSION_NAMES[tier]}{SUFFIX}" for tier in tiers) for track, tiers in TRACKS.items()}
    if sorted(name.rpartition("/")[2] for name in names if not name.endswith("/")) not in tracks.values():
        choices = "; ".join(f"{track}: {' and '.join(files)}" for track, files in tracks.items())
        faults.append(f"the zip holds {', '.join(names)}, expected the two files of one track ({choices})")
    return faults


def open_table(path: Path) -> tuple[pq.ParquetFile, list[str]]:
    """Open one parquet file.

    Returns:
        The file, and what is wrong with its columns that does not prevent reading it.

    Raises:
        PredictionError: not a parquet file, too large, or its columns are not those of a submission.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as fault:
        raise PredictionError(f"{path.name}: not a parquet file ({fault}).", _REMEDY) from fault
    _require_decodable(path, file.metadata)
    found = {field.name: field.type for field in file.schema_arrow}
    missing = [name for name in SCHEMA.names if name not in found]
    if missing:
        raise PredictionError(
            f"{path.name}: columns {', '.join(found)}, but {', '.join(missing)} is missing.",
            f"A submission has the columns {', '.join(SCHEMA.names)}.",
        )
    if not _readable(found):
        raise PredictionError(
            f"{path.name}: columns of type {', '.join(f'{name}: {found[name]}' for name in SCHEMA.names)}.",
            f"Expected {', '.join(f'{field.name}: {_plain(field.type)}' for field in SCHEMA)}.",
        )
    faults = [f"unknown column {name}" for name in found if name not in SCHEMA.names]
    faults += [
        f"column {field.name} has the type {_plain(found[field.name])}, expected {_plain(field.type)}"
        for field in SCHEMA
        if _plain(found[field.name]) != _plain(field.type)
    ]
    return file, faults


def _require_decodable(path: Path, footer: pq.FileMetaData) -> None:
    """Refuse a file that no submission can be, before a value is read: equal values take no room in the file."""
    if footer.num_rows > MOST_ROWS:
        raise PredictionError(f"{path.name}: {footer.num_rows:,} rows, the limit is {MOST_ROWS:,}.", _REMEDY)
    groups = [_decoded_bytes(footer.row_group(index)) for index in range(footer.num_row_groups)]
    for size, limit, what in (
        (sum(groups), LARGEST_SUBMISSION, "the file"),
        (max(groups, default=0), LARGEST_GROUP, "a row group"),
    ):
        if size > limit:
            raise PredictionError(
                f"{path.name}: {what} holds {size >> 20:,} MiB decoded, the limit is {limit >> 20:,} MiB.",
                "Write the predicted frames alone, one row group per trial, as `sensorium submission` does.",
            )


def _decoded_bytes(group: pq.RowGroupMetaData) -> int:
    columns = [group.column(index) for index in range(group.num_columns)]
    return sum(max(0, column.total_uncompressed_size, _VALUE_BYTES * column.num_values) for column in columns)


def _plain(kind: pa.DataType) -> str:
    """A type's name without what means nothing to a reader: names of list items, width of offsets."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_plain(kind.value_type)}>"
    return str(kind).removeprefix("large_")


def _readable(types: dict[str, pa.DataType]) -> bool:
    prediction, ids = _plain(types["prediction"]), _plain(types["neuron_ids"])
    return (
        _plain(types["mouse"]) == "string"
        and pa.types.is_integer(types["trial_indices"])
        and prediction in ("list<list<double>>", "list<list<float>>")
        and "int" in ids
        and ids.count("<") == 1
    )


def read_rows(file: pq.ParquetFile) -> Iterator[FoundRow]:
    """The rows of an opened file, one in memory at a time.

    Raises:
        PredictionError: the file is damaged, or a value is missing.
    """
    try:
        for batch in file.iter_batches(batch_size=1, columns=SCHEMA.names):
            yield _row(batch)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as fault:
        raise PredictionError(f"the parquet file is damaged ({fault}).", _REMEDY) from fault


def _row(batch: pa.RecordBatch) -> FoundRow:
    mouse, trial, prediction, ids = (batch.column(name)[0] for name in SCHEMA.names)
    if None in (mouse.as_py(), trial.as_py()) or any(
        cell.values is None or cell.values.null_count for cell in (prediction, ids)
    ):
        raise PredictionError("a row has an empty cell.", _REMEDY)
    counts = prediction.values.value_lengths().to_numpy(zero_copy_only=False)
    fewest, most = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
    values = np.empty((0, 0))
    if fewest == most:
        values = prediction.values.flatten().to_numpy(zero_copy_only=False).reshape(len(counts), most)
    return FoundRow(
        mouse.as_py(),
        trial.as_py(),
        values.astype(np.float64, copy=False),
        (fewest, most),
        ids.values.to_numpy(zero_copy_only=False).astype(np.int64),
    )
