"""Submission files as the competition's server and pandas read them."""

import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensorium.errors import PredictionError
from sensorium.metrics import response_precision
from sensorium.stages import submission

PAIR = ["distillation_001", "true_batch_001"]
ENSEMBLE = ",".join(PAIR)
NAMES = {
    "main": ("live_test_main", "predictions_live_main", "final_test_main", "predictions_final_main"),
    "bonus": (
        "live_test_bonus",
        "predictions_live_test_bonus_ood",
        "final_test_bonus",
        "predictions_final_test_bonus_ood",
    ),
}


@pytest.fixture
def predicted(make_predictions):
    for number, split in enumerate(("live_test_main", "final_test_main", "live_test_bonus", "final_test_bonus")):
        make_predictions(ENSEMBLE, split, seed=number)


@pytest.mark.parametrize("track", ["main", "bonus"])
def test_the_zip_holds_both_files_side_by_side(predicted, tiny_config, project, track):
    submission.run(tiny_config, project, ",".join(PAIR), track)
    folder = project.submission(track)
    names = [f"{NAMES[track][1]}.parquet.brotli", f"{NAMES[track][3]}.parquet.brotli"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, f"{track}.zip"])
    with zipfile.ZipFile(folder / f"{track}.zip") as archive:
        assert archive.namelist() == names
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert all(archive.read(name) == (folder / name).read_bytes() for name in names)


def test_pandas_reads_the_described_form(predicted, tiny_config, project, stores):
    submission.run(tiny_config, project, ",".join(PAIR), "main")
    table = pd.read_parquet(project.submission("main") / "predictions_live_main.parquet.brotli", engine="pyarrow")
    assert list(table.columns) == ["mouse", "trial_indices", "prediction", "neuron_ids"]
    assert table["trial_indices"].dtype == np.int64
    assert isinstance(table.index, pd.RangeIndex)
    new = [store for store in stores if store.mouse_set == "new"]
    expected = [(s.name, int(t)) for s in new for t in np.flatnonzero(s.tiers == "live_test_main")]
    assert list(zip(table["mouse"], table["trial_indices"], strict=True)) == expected
    by_name = {store.name: store for store in new}
    for row in table.itertuples():
        store = by_name[row.mouse]
        prediction = np.array([np.asarray(series) for series in row.prediction])
        assert prediction.dtype == np.float64
        raw = np.load(project.predictions(ENSEMBLE, "live_test_main") / row.mouse / f"{row.trial_indices}.npy")
        precision = response_precision(store.statistics("responses", "std").T)
        np.testing.assert_allclose(prediction, (raw * precision[:, : raw.shape[1]])[:, 10:60], rtol=1e-6)
        assert row.neuron_ids.tolist() == store.unit_ids.tolist()
        assert row.neuron_ids.dtype == np.uint32


def test_the_file_has_the_described_types(predicted, tiny_config, project):
    submission.run(tiny_config, project, ",".join(PAIR), "main")
    with pq.ParquetFile(project.submission("main") / "predictions_final_main.parquet.brotli") as file:
        types = {field.name: field.type for field in file.schema_arrow}
        assert types["mouse"] == pa.string()
        assert types["trial_indices"] == pa.int64()
        assert types["prediction"].value_type.value_type == pa.float64()
        assert types["neuron_ids"].value_type == pa.uint32()
        assert file.metadata.num_row_groups == file.metadata.num_rows
        group = file.metadata.row_group(0)
        assert {group.column(i).compression for i in range(group.num_columns)} == {"BROTLI"}


def test_equal_predictions_give_equal_zips(predicted, tiny_config, project):
    submission.run(tiny_config, project, ",".join(PAIR), "main")
    before = (project.submission("main") / "main.zip").read_bytes()
    submission.run(tiny_config, project, ",".join(PAIR), "main")
    assert (project.submission("main") / "main.zip").read_bytes() == before


def _refused(config, project):
    """The message of a refused submission, of which nothing is left."""
    with pytest.raises(PredictionError) as caught:
        submission.run(config, project, ",".join(PAIR), "main")
    assert not project.submission("main").parent.exists() or not list(project.submission("main").parent.iterdir())
    return str(caught.value)


def test_a_missing_trial_is_named(predicted, tiny_config, project):
    path = max(project.predictions(ENSEMBLE, "final_test_main").rglob("*.npy"))
    path.unlink()
    assert f"{path}: the prediction of this trial is missing" in _refused(tiny_config, project)


def test_nan_is_refused(predicted, tiny_config, project):
    path = max(project.predictions(ENSEMBLE, "final_test_main").rglob("*.npy"))
    array = np.load(path)
    array[0, 0] = np.inf
    np.save(path, array)
    assert "1 values are NaN or infinite" in _refused(tiny_config, project)


def test_a_flipped_bit_of_an_ensemble_is_refused(predicted, tiny_config, project):
    path = max(project.predictions(ENSEMBLE, "final_test_main").rglob("*.npy"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    assert f"{path}: changed since it was predicted" in _refused(tiny_config, project)


def test_trials_shorter_than_the_scored_frames_are_refused(predicted, tiny_config, project):
    longer = tiny_config.evaluation.model_copy(update={"frames": 63})
    config = tiny_config.model_copy(update={"evaluation": longer})
    assert "a submission needs 73" in _refused(config, project)


def test_no_new_mouse_is_refused(predicted, tiny_config, project):
    old = {mouse: kind for mouse, kind in tiny_config.dataset.mice.items() if kind == "old"}
    config = tiny_config.model_copy(update={"dataset": tiny_config.dataset.model_copy(update={"mice": old})})
    assert "there is no trial to submit" in _refused(config, project)


def test_an_experiment_that_is_not_predicted(tiny_config, project):
    assert "there are no predictions" in _refused(tiny_config, project)
