"""Files from strangers: each is read, or refused in one message; none runs code, fills memory or gives a traceback."""

import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import NEW_MOUSE

from sensorium import files, published
from sensorium.errors import CheckpointError, ConfigError, DataError, PredictionError, SensoriumError
from sensorium.inference.video import read_clip, resample
from sensorium.pictures import read_film
from sensorium.recordings.download.archive import DamagedArchiveError, inspect, unpack
from sensorium.recordings.raw import open_array, read_array
from sensorium.submission import reader
from sensorium.submission.writer import SCHEMA

pytestmark = pytest.mark.filterwarnings("ignore")  # what libraries think of damaged bytes
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(content):
    """Strategy: some bytes replaced, most of them near an end, where the headers are; sometimes cut off."""
    last = len(content) - 1
    places = st.one_of(st.integers(0, last), st.integers(0, min(last, 80)), st.integers(max(0, last - 300), last))
    values = st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))

    def change(replaced, length):
        changed = bytearray(content)
        for place, value in replaced:
            changed[place] = value
        return bytes(changed[:length])

    lengths = st.one_of(st.just(len(content)), st.integers(0, len(content)))
    return st.builds(change, st.lists(st.tuples(places, values), min_size=1, max_size=6), lengths)


def npy(header):
    """A .npy file of format 1.0 with some bytes of content."""
    text = header.encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(80)


HEADER = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}"
NPY = {
    "a terabyte": npy(HEADER.format("'<f8'", (1 << 37,))),
    "more than an address": npy(HEADER.format("'<f8'", (1 << 70,))),
    "a product that overflows": npy(HEADER.format("'<f8'", (1 << 40, 1 << 40))),
    "a negative size": npy(HEADER.format("'<f8'", (-1,))),
    "two negative sizes": npy(HEADER.format("'<f8'", (-5, -2))),
    "a size that is no number": npy(HEADER.format("'<f8'", (True,))),
    "objects": npy(HEADER.format("'|O'", (1,))),
    "countless empty strings": npy(HEADER.format("'<U0'", (1 << 40,))),
    "objects in a record": npy(HEADER.format("[('a','|O')]", (1,))),
    "a deep expression": npy("-" * 9000 + "1"),
    "brackets without end": npy("{" * 3000),
    "a pickle": pickle.dumps([1, 2]),
    "an archive": b"PK\5\6" + bytes(18),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", NPY)
@pytest.mark.parametrize("read", [read_array, open_array, lambda path: read_clip(path, None)])
def test_arrays_that_claim_what_they_do_not_hold_are_refused(kind, read, tmp_path):
    path = tmp_path / "0.npy"
    path.write_bytes(NPY[kind])
    with pytest.raises((DataError, PredictionError), match=r"0\.npy"):
        read(path)


@FEW
@given(content=damaged(npy(HEADER.format("'<f8'", (10,)))))
def test_damaged_arrays_are_read_or_refused(content, tmp_path):
    path = tmp_path / "0.npy"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert read_array(path).nbytes <= len(content)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "1" * 5000, "\0", "\ufeff{}"]
)
def test_json_of_any_depth_and_size_is_refused(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.json: not valid JSON"):
        files.read_json(path, DataError, "Remove it.")


class Code:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def checkpoint(params, *, archive):
    stream = io.BytesIO()
    content = {"model_name": published.MODEL_NAME, "params": params, "nn_state_dict": {"a": torch.zeros(3)}}
    torch.save(content, stream, _use_new_zipfile_serialization=archive)
    return stream.getvalue()


@pytest.mark.parametrize("archive", [True, False])
def test_a_published_checkpoint_runs_no_code(archive, tmp_path):
    path, trace = tmp_path / "model-000001-0.1.pth", tmp_path / "trace"
    path.write_bytes(checkpoint(Code(str(trace)), archive=archive))
    with pytest.raises(CheckpointError, match=r"damaged or not a published checkpoint"):
        published.read(path)
    assert not trace.exists()


@pytest.mark.parametrize("archive", [True, False])
def test_damaged_published_checkpoints_are_read_or_refused(archive, tmp_path):
    path = tmp_path / "model-000001-0.1.pth"

    @FEW
    @given(content=damaged(checkpoint({}, archive=archive)))
    def read(content):
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            published.read(path)

    read()


@pytest.mark.parametrize(("params", "state"), [([], {}), ({}, []), ({}, [[1]])])
def test_a_checkpoint_of_another_form_is_refused(params, state, tmp_path):
    path = tmp_path / "model-000001-0.1.pth"
    torch.save({"model_name": published.MODEL_NAME, "params": params, "nn_state_dict": state}, path)
    with pytest.raises(CheckpointError, match="no settings or no entries"):
        published.read(path)


def mouse_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{NEW_MOUSE}/meta/trials/tiers.npy", b"abc" * 50)
        archive.writestr(f"{NEW_MOUSE}/data/videos/0.npy", b"xyz" * 500)
    return stream.getvalue()


@FEW
@given(content=damaged(mouse_zip()))
def test_damaged_mice_are_unpacked_inside_their_folder_or_refused(content, tmp_path):
    path, target = tmp_path / "mouse.zip", tmp_path / "unpacked"
    path.write_bytes(content)
    with contextlib.suppress(SensoriumError, DamagedArchiveError), files.atomic_folder(target) as partial:
        unpack(inspect(path, NEW_MOUSE), partial, lambda count: None)
    assert {found.name for found in tmp_path.iterdir()} <= {"mouse.zip", "unpacked"}


def test_a_mouse_with_a_member_without_name_is_refused(tmp_path):
    path = tmp_path / "mouse.zip"
    content = mouse_zip().replace(f"{NEW_MOUSE}/data/videos/0.npy".encode(), b"\0" * (len(NEW_MOUSE) + 18))
    path.write_bytes(content)
    with pytest.raises(SensoriumError, match="a member has no name"):
        inspect(path, NEW_MOUSE)


def table(**columns):
    content = {
        "mouse": ["a", "b"],
        "trial_indices": [1, 2],
        "prediction": [[[1.0, 2.0], [3.0, 4.0]]] * 2,
        "neuron_ids": [[1, 2]] * 2,
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(content | columns, schema=SCHEMA), stream, compression="brotli")
    return stream.getvalue()


def submission_zip(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, table())
    return stream.getvalue()


def read_submission(path):
    with reader.submission_files(path) as (found, _):
        return [row for file in found for row in reader.read_rows(reader.open_table(file)[0])]


@pytest.mark.parametrize("content", [table(), submission_zip("predictions_live_main.parquet.brotli")])
def test_damaged_submissions_are_read_or_refused(content, tmp_path):
    path = tmp_path / "submission"
    path.write_bytes(content)
    assert len(read_submission(path)) == 2

    @FEW
    @given(changed=damaged(content))
    def read(changed):
        path.write_bytes(changed)
        with contextlib.suppress(PredictionError):
            read_submission(path)

    read()


@pytest.mark.parametrize("column", [{"prediction": [[[1.0], None]] * 2}, {"neuron_ids": [[1, None]] * 2}])
def test_a_submission_with_holes_is_refused(column, tmp_path):
    path = tmp_path / "submission"
    path.write_bytes(table(**column))
    with pytest.raises(PredictionError, match="empty cell"):
        read_submission(path)


def test_a_submission_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "main.zip"
    path.write_bytes(submission_zip("a.parquet"))
    monkeypatch.setattr(reader, "LARGEST_SUBMISSION", 100)
    with pytest.raises(PredictionError, match="more than any submission holds"):
        read_submission(path)


def test_a_parquet_file_that_decodes_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LARGEST_GROUP", 8 << 20, raising=False)
    path, count = tmp_path / "main.parquet", 5_000_000
    ends = pa.array([0, count], pa.int32())
    inner = pa.ListArray.from_arrays(ends, pa.array(np.zeros(count)))
    prediction = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), inner)
    content = [pa.array(["a"]), pa.array([1]), prediction, pa.array([[1]], SCHEMA.field("neuron_ids").type)]
    pq.write_table(pa.Table.from_arrays(content, schema=SCHEMA), path)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(PredictionError, match=r"main\.parquet: a row group holds 38 MiB decoded, the limit is 8 MiB"):
        read_submission(path)


@pytest.mark.parametrize(
    ("limit", "value", "problem"),
    [
        ("LARGEST_GROUP", 100, "a row group holds"),
        ("LARGEST_SUBMISSION", 100, "the file holds"),
        ("MOST_ROWS", 1, "2 rows, the limit is 1"),
    ],
)
def test_a_parquet_file_larger_than_a_limit_is_refused(limit, value, problem, tmp_path, monkeypatch):
    path = tmp_path / "main.parquet"
    path.write_bytes(table())
    monkeypatch.setattr(reader, limit, value)
    with pytest.raises(PredictionError, match=problem):
        read_submission(path)


def test_a_submission_of_countless_files_is_refused(tmp_path):
    path = tmp_path / "main.zip"
    path.write_bytes(submission_zip(*(f"{i}.parquet" for i in range(reader.MOST_FILES + 1))))
    with pytest.raises(PredictionError, match=f"holds {reader.MOST_FILES + 1} files"):
        read_submission(path)


def test_a_submission_is_unpacked_inside_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(reader.tempfile, "tempdir", str(tmp_path / "below"))
    (tmp_path / "below").mkdir()
    path = tmp_path / "main.zip"
    path.write_bytes(submission_zip("../../escaped.parquet", "/escaped.parquet"))
    with contextlib.suppress(PredictionError):
        read_submission(path)
    assert {found.name for found in tmp_path.iterdir()} == {"below", "main.zip"}


def gif(rows=20, columns=30, duration=50):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (rows, columns), dtype=np.uint8)) for _ in range(4)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=duration)
    return stream.getvalue()


@FEW
@given(content=damaged(gif()))
def test_damaged_gifs_are_read_or_refused(content, tmp_path):
    path = tmp_path / "clip.gif"
    path.write_bytes(content)
    with contextlib.suppress(PredictionError):
        read_clip(path, None)


def peak(function):
    """Most bytes that NumPy and Python hold during a call."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_gif_larger_than_the_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "clip.gif"
    path.write_bytes(gif(500, 1000))

    def refuse():
        message = r"clip\.gif: 4 frames of 1000 x 500 pixels need 0\.01 GiB of memory, the limit is 0\.005 GiB"
        with pytest.raises(PredictionError, match=message) as fault:
            read_clip(path, None)
        assert "set SENSORIUM_MAX_VIDEO_GIB" in fault.value.remedy

    read_clip(path, None)  # imports what it needs
    monkeypatch.setenv("SENSORIUM_MAX_VIDEO_GIB", "0.005")
    assert peak(refuse) < 500 * 1000
    monkeypatch.setenv("SENSORIUM_MAX_VIDEO_GIB", "0.01")
    assert peak(lambda: read_clip(path, None)) < 0.01 * 2**30


@pytest.mark.parametrize("states", ["its frames", "no frames"])
def test_a_film_larger_than_the_memory_is_refused(states, tmp_path, monkeypatch):
    path = tmp_path / ("clip.mp4" if states == "its frames" else "clip.ts")
    film(path)
    monkeypatch.setenv("SENSORIUM_MAX_VIDEO_GIB", f"{(3.5 * (2 * 32 * 32 + 256) + 16 * 32 * 32) / 2**30}")
    frames = "5" if states == "its frames" else "at least 4"
    with pytest.raises(PredictionError, match=f"clip.*: {frames} frames of 32 x 32 pixels need .* GiB of memory"):
        read_film(path, PredictionError, "")


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 10, 1 << 10), (1 << 20, 1 << 10, 1 << 10, 3), (1 << 40, 0, 0)])
def test_an_array_larger_than_the_memory_is_refused(shape, tmp_path):
    path = tmp_path / "clip.npy"
    header = npy(HEADER.format("'|u1'", shape))[:-80]
    path.write_bytes(header)
    os.truncate(path, len(header) + np.prod(shape, dtype=int))  # holes: the file takes no room on disk
    with pytest.raises(PredictionError, match=rf"clip\.npy: {shape[0]:,} frames of .* GiB of memory"):
        read_clip(path, None)


def test_a_gif_that_lasts_too_long_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "clip.gif"
    path.write_bytes(gif(1, 1, duration=655_350))
    with pytest.raises(PredictionError, match=r"lasts 2,621 s, which are 78,642 frames at 30 Hz") as fault:
        read_clip(path, None)
    assert "set SENSORIUM_MAX_VIDEO_FRAMES" in fault.value.remedy
    monkeypatch.setenv("SENSORIUM_MAX_VIDEO_FRAMES", "78642")
    assert len(resample(read_clip(path, None), (1, 1))) == 78642


@pytest.mark.parametrize("name", ["SENSORIUM_MAX_VIDEO_GIB", "SENSORIUM_MAX_VIDEO_FRAMES"])
@pytest.mark.parametrize("text", ["many", "0", "-1", "nan", ""])
def test_a_limit_that_is_no_positive_number_is_refused(name, text, tmp_path, monkeypatch):
    path = tmp_path / "clip.gif"
    path.write_bytes(gif())
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=f"{name}: '{text}' is no positive number"):
        read_clip(path, None)


def film(path):
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=30)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            picture = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return path.read_bytes()


def test_damaged_films_are_read_or_refused(tmp_path):
    path = tmp_path / "clip.mp4"

    @FEW
    @given(content=damaged(film(path)))
    def read(content):
        path.write_bytes(content)
        with contextlib.suppress(PredictionError):
            read_clip(path, None)

    read()
