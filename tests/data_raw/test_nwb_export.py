"""Export of NWB files: valid for nwbinspector, and equal to the store when imported again."""

import subprocess
import sys

import numpy as np
import pynwb
import pytest
import yaml
from nwbinspector import Importance, inspect_nwbfile
from tiny import NEW_MOUSE, OLD_MOUSE, ROOT, make_config

from sensorium.commands import export_nwb
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError, PredictionError
from sensorium.inference.predictions import write_prediction, write_provenance
from sensorium.paths import Paths
from sensorium.recordings.ingest import ingest
from sensorium.recordings.nwb.mapping import read_map
from sensorium.recordings.nwb.reader import import_nwb
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.raw_writer import write_meta, write_trial
from sensorium.recordings.statistics import write_statistics

pytestmark = pytest.mark.filterwarnings(r"ignore:datetime.datetime.utc.*:DeprecationWarning")
OURS = ROOT / "conf" / "nwb" / "sensorium.yaml"


def _store(raw, mouse, folder):
    folder.mkdir(parents=True)
    ingest(RawMouse(raw / mouse), "old" if mouse == OLD_MOUSE else "new", folder, None, lambda *_: None)
    return MouseStore(folder)


def _project(raw, tmp_path, mouse):
    """A project whose store of one mouse is there."""
    paths = Paths(tmp_path)
    return make_config(), paths, _store(raw, mouse, paths.store(mouse))


def _predict(paths, store, experiment, trials):
    folder = paths.predictions(experiment, "folds")
    for trial in trials:
        values = np.full((store.neurons, store.lengths[trial]), trial + len(experiment), np.float32)
        write_prediction(folder, store.name, trial, values)
    assignments = [{"mouse": store.name, "weights": experiment}, {"mouse": "another"}]
    write_provenance(folder, {"split": "folds", "assignments": assignments})


def _messages(path, threshold=Importance.BEST_PRACTICE_SUGGESTION):
    found = list(inspect_nwbfile(path, importance_threshold=threshold))
    return [f"{message.importance.name} {message.check_function_name}: {message.message}" for message in found]


def _check_equal(store, back):
    for name in ("lengths", "tiers", "labels", "unit_ids", "coordinates", "video_hashes"):
        assert np.array_equal(getattr(store, name), getattr(back, name)), name
    assert store.frame_dtype == back.frame_dtype
    for trial in range(store.trials):
        for name in ("videos", "responses", "behavior", "pupil_center"):
            assert np.array_equal(store.view(name, trial), back.view(name, trial)), (name, trial)


@pytest.mark.parametrize("mouse", [NEW_MOUSE, OLD_MOUSE])
def test_a_store_comes_back_equal_to_the_bit(raw_dataset, tmp_path, mouse):
    config, paths, store = _project(raw_dataset, tmp_path, mouse)
    export_nwb.run(config, paths, tmp_path / "out", mouse)
    source = tmp_path / "out" / f"{mouse}.nwb"
    assert _messages(source) == []
    import_nwb(source, tmp_path / "raw" / mouse, read_map(OURS), lambda _: None)
    _check_equal(store, _store(tmp_path / "raw", mouse, tmp_path / "back.zarr"))


def test_each_video_is_stored_once_and_grey_levels_need_not_be_whole(tmp_path):
    rng, raw = np.random.default_rng(0), tmp_path / "raw" / OLD_MOUSE
    videos = [rng.random((12, 16, length)) * 255 for length in (20, 30)]
    shown = [0, 1, 0, 0, 1]
    for trial, video in enumerate(shown):
        length = videos[video].shape[-1]
        arrays = {"responses": rng.random((3, length)), "behavior": rng.random((2, length))}
        write_trial(raw, trial, arrays | {"videos": videos[video], "pupil_center": rng.random((2, length))}, 30)
    nothing = {name: np.empty((*array.shape[:-1], 0)) for name, array in arrays.items()}
    write_trial(raw, 5, nothing | {"videos": np.empty((12, 16, 0)), "pupil_center": np.empty((2, 0))}, 30)
    write_meta(raw, ["train"] * 4 + ["oracle", "none"], np.array([7, 3, 9]), rng.random((3, 3)))
    write_statistics(raw, [0, 1, 2, 3])
    config, paths, store = _project(raw.parent, tmp_path, OLD_MOUSE)
    export_nwb.run(config, paths, tmp_path, OLD_MOUSE)
    source = tmp_path / f"{OLD_MOUSE}.nwb"
    with pynwb.NWBHDF5IO(source, "r") as io:
        nwb = io.read()
        assert nwb.stimulus_template["videos"].data.shape == (50, 12, 16)
        assert nwb.trials["video"][:].tolist() == [*shown, 2]
        assert nwb.trials["first_frame"][:].tolist() == [0, 20, 0, 0, 20, 50]
    assert _messages(source) == []
    import_nwb(source, tmp_path / "again" / OLD_MOUSE, read_map(OURS), lambda _: None)
    _check_equal(store, _store(tmp_path / "again", OLD_MOUSE, tmp_path / "back.zarr"))


def test_predictions_are_written_beside_the_recordings(raw_dataset, tmp_path):
    config, paths, store = _project(raw_dataset, tmp_path, NEW_MOUSE)
    first, second = "true_batch_001", "distillation_001"
    _predict(paths, store, first, [0, 2, 3])
    _predict(paths, store, second, [0, 2])
    export_nwb.run(config, paths, tmp_path, NEW_MOUSE, experiments=f"{first},{second}")
    path = tmp_path / f"{NEW_MOUSE}.nwb"
    assert _messages(path, Importance.BEST_PRACTICE_VIOLATION) == []
    assert [message.partition(":")[0] for message in _messages(path)] == [
        "BEST_PRACTICE_SUGGESTION check_processing_module_name"  # there is no schema for predictions
    ]
    with pynwb.NWBHDF5IO(path, "r") as io:
        series = io.read().processing["predictions"][f"{second}+{first}_out-of-fold"]
        starts = np.concatenate([[0], np.cumsum(store.lengths)])
        mean = (len(first) + len(second)) / 2
        for trial in range(store.trials):
            expected = trial + mean if trial in (0, 2) else np.nan
            np.testing.assert_array_equal(series.data[starts[trial] : starts[trial + 1]], expected)
        provenance = yaml.safe_load(series.comments)
        assert provenance[first]["assignments"] == [{"mouse": NEW_MOUSE, "weights": first}]


def test_what_is_known_of_the_session_is_written(raw_dataset, tmp_path):
    config, paths, _ = _project(raw_dataset, tmp_path, NEW_MOUSE)
    about = tmp_path / "about.yaml"
    about.write_text(
        "file: {institution: Lab, session_start_time: 2024-05-06T07:08:09Z}\nsubject: {age: P90D, sex: F}\n"
    )
    export_nwb.run(config, paths, tmp_path, NEW_MOUSE, metadata=about)
    with pynwb.NWBHDF5IO(tmp_path / f"{NEW_MOUSE}.nwb", "r") as io:
        nwb = io.read()
        assert (nwb.institution, nwb.subject.age, nwb.subject.subject_id) == ("Lab", "P90D", NEW_MOUSE)
        assert nwb.session_start_time.isoformat() == "2024-05-06T07:08:09+00:00"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file: {instituton: Lab}", "instituton"),
        ("animal: {age: P90D}", "unknown key animal"),
        ("subject: {age: 90}", "age"),
        ("[1, 2]", "not two sections"),
        ("file: [", "not readable as YAML"),
    ],
)
def test_wrong_metadata_give_one_sentence_and_no_file(raw_dataset, tmp_path, text, message):
    config, paths, _ = _project(raw_dataset, tmp_path, NEW_MOUSE)
    (tmp_path / "about.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        export_nwb.run(config, paths, tmp_path / "out", NEW_MOUSE, metadata=tmp_path / "about.yaml")
    assert not list(tmp_path.glob("out/*"))


def test_nothing_is_overwritten_and_a_failed_export_leaves_nothing(raw_dataset, tmp_path):
    config, paths, store = _project(raw_dataset, tmp_path, NEW_MOUSE)
    with pytest.raises(PredictionError, match="there are no predictions"):
        export_nwb.run(config, paths, tmp_path / "out", NEW_MOUSE, experiments="true_batch_001")
    _predict(paths, store, "true_batch_001", [0])
    (paths.predictions("true_batch_001", "folds") / NEW_MOUSE / "0.npy").write_bytes(b"")
    with pytest.raises(PredictionError, match=r"not a readable \.npy file"):
        export_nwb.run(config, paths, tmp_path / "out", NEW_MOUSE, experiments="true_batch_001")
    assert not list(tmp_path.glob("out/*"))
    (tmp_path / "out" / f"{NEW_MOUSE}.nwb").parent.mkdir(exist_ok=True)
    (tmp_path / "out" / f"{NEW_MOUSE}.nwb").write_text("mine")
    with pytest.raises(DataError, match="already there"):
        export_nwb.run(config, paths, tmp_path / "out", NEW_MOUSE)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_memory_does_not_grow_with_the_trials(tmp_path):
    grown = []
    for trials in (10, 60):
        raw = tmp_path / f"{trials}" / OLD_MOUSE
        rng = np.random.default_rng(0)
        arrays = {
            "videos": rng.integers(0, 255, (36, 64, 100)).astype(float),
            "responses": rng.random((1000, 100)),
            "behavior": rng.random((2, 100)),
            "pupil_center": rng.random((2, 100)),
        }
        for trial in range(trials):
            arrays["videos"][0, 0, 0] = trial
            write_trial(raw, trial, arrays, 100)
        write_meta(raw, ["train"] * trials, np.arange(1000), rng.random((1000, 3)))
        write_statistics(raw, [0])
        store = _store(raw.parent, OLD_MOUSE, tmp_path / f"{trials}.zarr")
        code = (
            "import sys; from pathlib import Path; from sensorium.data.store import MouseStore\n"
            "from sensorium.recordings.nwb.export import export_nwb\n"
            "own = lambda: int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0])\n"
            "sizes = []\n"
            "export_nwb(MouseStore(Path(sys.argv[1])), Path(sys.argv[2]), {}, [], lambda: sizes.append(own()))\n"
            "print(max(sizes) - sizes[0])"
        )
        found = subprocess.run(
            [sys.executable, "-c", code, store.path, tmp_path / f"{trials}.nwb"],
            capture_output=True,
            text=True,
            check=True,
        )
        grown.append(int(found.stdout))
    assert grown[1] < grown[0] + 10_000, f"{grown} kB; fifty trials more hold 32,000 kB"
