"""Sessions in Experanto's folder format: exported stores come back equal, foreign sessions are resampled."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import NEW_MOUSE, OLD_MOUSE, make_config

from sensorium.commands import experanto
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError
from sensorium.paths import Paths
from sensorium.recordings.experanto.export import export_session
from sensorium.recordings.experanto.sequence import Sequence
from sensorium.recordings.ingest import ingest
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.verify import verify_mouse

SIZE = (12, 16)


def _nothing(*_):
    return None


def _store(raw: Path, mouse: str, folder: Path) -> MouseStore:
    mouse_set = "old" if mouse == OLD_MOUSE else "new"
    folder.mkdir(parents=True)
    ingest(RawMouse(raw / mouse), mouse_set, folder, None, _nothing)
    return MouseStore(folder)


def _import(tmp_path: Path, folder: Path, **options) -> Path:
    experanto.run_import(make_config("raw"), Paths(tmp_path), folder, **{"name": None, **options})
    return tmp_path / "raw"


def _write_yaml(path: Path, **values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def _sequence(folder: Path, stamps, data, shifts=None, mem=False, **more) -> None:
    (folder / "meta").mkdir(parents=True)
    rate = 1 / float(np.median(np.diff(stamps)))
    _write_yaml(
        folder / "meta.yml",
        **{
            "modality": "sequence",
            "start_time": float(stamps[0]),
            "end_time": float(stamps[-1]),
            "sampling_rate": rate,
            "n_signals": data.shape[1],
            "n_timestamps": len(stamps),
            "dtype": str(data.dtype),
            "is_mem_mapped": mem,
            "phase_shift_per_signal": shifts is not None,
            **more,
        },
    )
    np.save(folder / "timestamps.npy", stamps)
    if mem:
        data.tofile(folder / "data.mem")
    else:
        np.save(folder / "data.npy", data)
    if shifts is not None:
        np.save(folder / "meta" / "phase_shifts.npy", shifts)


def _foreign(folder: Path, mem: bool = False, seed: int = 0) -> Path:
    """A session with a 60 Hz screen and 8 Hz responses with phase shifts: video, blank, image, invalid, video."""
    rng = np.random.default_rng(seed)
    kinds = [("video", 90), ("blank", 1), ("image", 1), ("invalid", 1), ("video", 60)]
    seconds = {"blank": 0.5, "image": 0.4, "invalid": 0.3}
    stamps, first, now = [], 0, 0.5
    (folder / "screen" / "data").mkdir(parents=True)
    for trial, (kind, frames) in enumerate(kinds):
        stamps.extend(now + np.arange(frames) / 60)
        now += seconds.get(kind, frames / 60)
        more = {"num_frames": frames} if kind == "video" else {"interleave_value": 100}
        tier = {"video": "train", "image": "test"}.get(kind, "none")
        _write_yaml(
            folder / "screen" / "meta" / f"{trial:05d}.yml",
            modality=kind, first_frame_idx=first, image_size=list(SIZE), tier=tier, **more,
        )  # fmt: skip
        shape = (frames, *SIZE) if kind == "video" else SIZE
        if kind in ("video", "image"):
            np.save(folder / "screen" / "data" / f"{trial:05d}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
        first += frames
    _write_yaml(folder / "screen" / "meta.yml", modality="screen", frame_rate=60.0)
    np.save(folder / "screen" / "timestamps.npy", np.array(stamps))
    slow = np.arange(int(8 * (now + 1))) / 8
    fast = np.arange(int(20 * (now + 1))) / 20 + 0.01
    shifts = np.array([0.0, 0.03, 0.06, 0.1, 0.1])
    _sequence(folder / "responses", slow, rng.gamma(1, 5, (len(slow), 5)).astype(np.float32), shifts, mem)
    _sequence(folder / "eye_tracker", fast, rng.normal(20, 3, (len(fast), 4)))
    _sequence(folder / "treadmill", fast, rng.normal(0, 3, (len(fast), 1)), mem=mem)
    return folder


@pytest.mark.parametrize("mouse", [NEW_MOUSE, OLD_MOUSE])
def test_a_store_comes_back_equal_to_the_bit(raw_dataset, tmp_path, mouse):
    store = _store(raw_dataset, mouse, tmp_path / "data" / "store" / f"{mouse}.zarr")
    experanto.run_export(Paths(tmp_path), make_config(), tmp_path / "sessions", mouse)
    with pytest.raises(DataError, match="already there"):
        experanto.run_export(Paths(tmp_path), make_config(), tmp_path / "sessions", mouse)
    raw = _import(tmp_path, tmp_path / "sessions" / mouse)
    back = _store(raw, mouse, tmp_path / "back.zarr")
    for name in ("tiers", "lengths", "labels", "unit_ids", "coordinates", "video_hashes"):
        assert np.array_equal(getattr(store, name), getattr(back, name)), name
    assert store.frame_dtype == back.frame_dtype
    for trial in range(store.trials):
        for name in ("videos", "responses", "behavior", "pupil_center"):
            assert np.array_equal(store.view(name, trial), back.view(name, trial)), (name, trial)
    for name in ("responses", "behavior", "pupil_center"):
        assert store.statistics(name, "mean").shape == back.statistics(name, "mean").shape


def test_the_session_describes_itself(raw_dataset, tmp_path):
    store = _store(raw_dataset, NEW_MOUSE, tmp_path / "store.zarr")
    session = tmp_path / "session"
    session.mkdir()
    export_session(store, session, _nothing)
    frames = int(store.lengths.sum())
    meta = yaml.safe_load((session / "responses" / "meta.yml").read_text())
    assert (meta["n_timestamps"], meta["n_signals"], meta["sampling_rate"]) == (frames, store.neurons, 30.0)
    responses = np.memmap(session / "responses" / "data.mem", meta["dtype"], "r", shape=(frames, store.neurons))
    train = np.concatenate([store.responses(trial) for trial in np.flatnonzero(store.tiers == "train")])
    assert np.allclose(np.load(session / "responses" / "meta" / "means.npy"), train.mean(axis=0, dtype=np.float64))
    assert np.allclose(np.load(session / "responses" / "meta" / "stds.npy"), train.std(axis=0, dtype=np.float64))
    trial = yaml.safe_load((session / "screen" / "meta" / "00003.yml").read_text())
    first = trial["first_frame_idx"]
    assert first == store.lengths[:3].sum()
    assert np.array_equal(responses[first : first + trial["num_frames"]], store.responses(3))
    assert np.load(session / "screen" / "meta" / "means.npy").shape == store.frame_shape


@pytest.mark.parametrize("mem", [False, True])
def test_other_rates_and_phase_shifts_as_computed_directly(tmp_path, mem):
    session = _foreign(tmp_path / "session", mem)
    mouse = RawMouse(_import(tmp_path, session, name="mine") / "mine")
    assert mouse.tiers == ["train", "final_test_main", "train"]
    assert [mouse.valid_length(trial, labelled=True) for trial in range(3)] == [45, 12, 30]
    shifts = np.load(session / "responses" / "meta" / "phase_shifts.npy")
    slow = np.load(session / "responses" / "timestamps.npy")
    fast = np.load(session / "eye_tracker" / "timestamps.npy")
    samples = (
        np.fromfile(session / "responses" / "data.mem", np.float32).reshape(len(slow), 5)
        if mem
        else np.load(session / "responses" / "data.npy")
    )
    eye = np.load(session / "eye_tracker" / "data.npy")
    for trial, (start, length) in enumerate([(0.5, 45), (2.5, 12), (3.2, 30)]):
        times = start + np.arange(length) / 30
        expected = [np.interp(times - shift, slow, samples[:, n]) for n, shift in enumerate(shifts)]
        assert np.allclose(mouse.load("responses", trial)[:, :length], expected, rtol=0, atol=1e-4 * 40)
        center = [np.interp(times, fast, eye[:, column]) for column in (1, 2)]
        assert np.allclose(mouse.load("pupil_center", trial)[:, :length], center, rtol=0, atol=1e-4 * 20)
    film = np.load(session / "screen" / "data" / "00000.npy")
    assert np.array_equal(np.moveaxis(mouse.load("videos", 0)[..., :45], -1, 0), film[::2])


def test_every_kind_of_trial_can_be_taken(tmp_path):
    raw = _import(tmp_path, _foreign(tmp_path / "session"), name="mine", trials="video,image,blank,invalid")
    mouse = RawMouse(raw / "mine")
    assert mouse.tiers == ["train", "none", "final_test_main", "none", "train"]
    assert (mouse.load("videos", 1)[..., :15] == 100).all()
    assert verify_mouse(raw / "mine", "old").count("error") == 0


def test_gaps_are_bridged(tmp_path):
    stamps = np.arange(8.0)
    data = np.stack([np.arange(8.0), np.full(8, np.nan)], axis=1)
    data[3:5, 0] = np.nan
    _sequence(tmp_path / "treadmill", stamps, data)
    np.save(tmp_path / "treadmill" / "meta" / "means.npy", np.array([1.0, 7.0]))
    values = Sequence(tmp_path / "treadmill").at(np.array([2.0, 3.5, 5.0]))
    assert np.allclose(values, [[2, 7], [3.5, 7], [5, 7]])


def test_films_are_read(tmp_path):
    av = pytest.importorskip("av")
    session = _foreign(tmp_path / "session")
    path = session / "screen" / "data" / "00000.npy"
    levels = np.repeat(np.arange(90, dtype=np.uint8) * 2, 12 * 16).reshape(90, 12, 16)
    with av.open(str(path.with_suffix(".mp4")), "w") as container:
        stream = container.add_stream("mpeg4", rate=60)
        stream.width, stream.height, stream.pix_fmt = 16, 12, "yuv420p"
        for level in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="gray")))
        container.mux(stream.encode())
    path.unlink()
    video = RawMouse(_import(tmp_path, session, name="mine") / "mine").load("videos", 0)[..., :45]
    assert np.abs(video.mean(axis=(0, 1)) - np.arange(0, 180, 4)).max() < 4


def test_many_sessions_at_once_and_again(tmp_path, capsys):
    for index in range(5):
        _foreign(tmp_path / "sessions" / f"animal{index}", seed=index)
    (tmp_path / "sessions" / "animal5").symlink_to(tmp_path / "sessions" / "animal4")  # named by the link
    raw = _import(tmp_path, tmp_path / "sessions")
    written = {path: path.stat().st_mtime_ns for path in raw.rglob("*.npy")}
    assert sorted(path.name for path in raw.iterdir()) == [f"animal{index}" for index in range(6)]
    _import(tmp_path, tmp_path / "sessions")
    assert {path: path.stat().st_mtime_ns for path in raw.rglob("*.npy")} == written
    with pytest.raises(DataError, match="already there"):
        _import(tmp_path, tmp_path / "sessions" / "animal0")
    with pytest.raises(ConfigError, match="holds 6 sessions"):
        _import(tmp_path, tmp_path / "sessions", name="mine")


def test_memory_does_not_grow_with_the_session(tmp_path):
    """Data of 400 MB are read a trial at a time."""
    session = _foreign(tmp_path / "session")
    folder = session / "responses"
    meta = yaml.safe_load((folder / "meta.yml").read_text())
    samples, signals = 200_000, 500
    meta |= {"n_timestamps": samples, "n_signals": signals, "is_mem_mapped": True, "phase_shift_per_signal": False}
    _write_yaml(folder / "meta.yml", **meta)
    np.save(folder / "timestamps.npy", np.arange(samples) / 8)
    with (folder / "data.mem").open("wb") as stream:
        stream.truncate(samples * signals * 4)
    code = f"""
import resource
import numpy as np
from pathlib import Path
from sensorium.recordings.experanto.sequence import Sequence
responses = Sequence(Path({str(folder)!r}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, 24000, 60):
    responses.at(start + np.arange(300) / 30)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000 * (1024 if sys.platform == "darwin" else 1)


def _meta_without(session):
    path = session / "responses" / "meta.yml"
    _write_yaml(path, **{k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "sampling_rate"})


def _edit(file, **values):
    def edit(session):
        path = session / file
        _write_yaml(path, **(yaml.safe_load(path.read_text()) | values))

    return edit


def _falling(session):
    path = session / "treadmill" / "timestamps.npy"
    stamps = np.load(path)
    stamps[5] = stamps[3]
    np.save(path, stamps)


FAULTS = [
    (_meta_without, "meta.yml: the key sampling_rate is missing"),
    (_edit("responses/meta.yml", n_signals=6), "data.npy: float32 of shape"),
    (_edit("responses/meta.yml", is_mem_mapped=True), "data.mem: the file does not exist"),
    (_edit("screen/meta/00000.yml", modality="hologram"), "00000.yml: modality: 'hologram', expected one of"),
    (_edit("screen/meta/00000.yml", tier="practice"), "--tiers practice=TIER"),
    (_edit("screen/meta/00000.yml", num_frames=9000), "00000.yml: frames 0 to 8999"),
    (_edit("screen/meta/00000.yml", num_frames=80), "00000.npy: uint8 of shape"),
    (_edit("eye_tracker/meta.yml", modality="spikes"), "meta.yml: modality: 'spikes'"),
    (_falling, "timestamps.npy: the time stamps do not rise after sample 4"),
    (lambda session: (session / "responses" / "meta.yml").write_text("a: [1"), "meta.yml: not valid YAML"),
    (lambda session: (session / "screen" / "data" / "00004.npy").unlink(), "no file with one of the endings"),
    (lambda session: (session / "responses" / "timestamps.npy").write_bytes(b"x"), "timestamps.npy: truncated"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_an_unsound_session_gives_one_sentence_and_no_mouse(tmp_path, damage, message):
    session = _foreign(tmp_path / "session")
    damage(session)
    with pytest.raises(DataError) as fault:
        _import(tmp_path, session, name="mine")
    assert message in str(fault.value)
    assert fault.value.remedy
    assert not list((tmp_path / "raw").glob("*"))  # hidden ones included


def test_a_trial_that_the_signals_do_not_cover_is_unusable(tmp_path):
    session = _foreign(tmp_path / "session")
    path = session / "treadmill"
    stamps, data = np.load(path / "timestamps.npy"), np.load(path / "data.npy")
    np.save(path / "timestamps.npy", stamps[:50])
    np.save(path / "data.npy", data[:50])
    _edit("treadmill/meta.yml", n_timestamps=50)(session)
    assert RawMouse(_import(tmp_path, session, name="mine") / "mine").tiers == ["train", "none", "none"]
