"""The local scorer: every mistake that a submission can hold is told, and what is known is scored."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sensorium.commands import score
from sensorium.errors import DataError, PredictionError
from sensorium.metrics import correlation, response_precision
from sensorium.paths import Paths
from sensorium.stages import submission
from sensorium.submission.scorer import score_file

EXPERIMENT = "true_batch_001"
LIVE, FINAL = "predictions_live_main.parquet.brotli", "predictions_final_main.parquet.brotli"


@pytest.fixture
def handed_in(tiny_config, project, make_predictions):
    """Folder of a submission without faults, and its raw mice."""
    make_predictions(EXPERIMENT, "live_test_main", noise=1.0, seed=1)
    make_predictions(EXPERIMENT, "final_test_main", noise=1.0, seed=2)
    submission.run(tiny_config, project, EXPERIMENT, "main")
    return project.submission("main"), Path(tiny_config.dataset.raw)


@pytest.fixture
def faults(handed_in, tiny_config):
    """Faults of the live file after a change to its table."""
    folder, raw = handed_in

    def after(change, name=LIVE):
        table = pd.read_parquet(folder / LIVE)
        (change(table) if change else table).to_parquet(
            folder / name, engine="pyarrow", compression="brotli", index=False
        )
        return "\n".join(score_file(folder / name, raw, tiny_config.evaluation).faults)

    return after


def test_our_own_zip_is_sound(handed_in, tiny_config, tmp_path, capsys):
    folder, raw = handed_in
    score.run(tiny_config, Paths(tmp_path), folder / "main.zip", raw)
    shown = capsys.readouterr().out
    assert "The form is right" in shown
    assert "withheld" in shown


def test_a_table_written_by_pandas_is_sound(faults):
    assert faults(lambda table: table) == ""


def test_scores_are_the_plain_correlations(handed_in, tiny_config, copy_raw, stores):
    """Responses of a withheld tier are put into a copy of the raw mice, as the organisers have them."""
    folder, _ = handed_in
    raw = copy_raw()
    rng = np.random.default_rng(3)
    targets, predictions = [], []
    store = stores[0]
    table = pd.read_parquet(folder / LIVE)
    precision = response_precision(store.statistics("responses", "std").T)
    for row in table[table["mouse"] == store.name].itertuples():
        path = raw / store.name / "data" / "responses" / f"{row.trial_indices}.npy"
        responses = np.load(path)
        length = int(store.lengths[row.trial_indices])
        responses[:, :length] = rng.gamma(2.0, 3.0, (store.neurons, length))
        np.save(path, responses)
        targets.append((responses * precision)[:, 10:60])
        predictions.append(np.array(row.prediction.tolist()))
    expected = correlation(np.concatenate(targets, 1), np.concatenate(predictions, 1)).mean()
    result = score_file(folder / LIVE, raw, tiny_config.evaluation)
    assert result.mice[0].score == pytest.approx(expected, rel=1e-6)
    assert result.mice[1].score is None
    assert result.score is None
    assert 0.3 < result.mice[0].noiseless <= 1


def test_a_name_that_the_server_does_not_know(faults):
    assert "the server does not know this name" in faults(None, name="live_main.parquet")


def test_a_missing_column(faults):
    with pytest.raises(PredictionError, match="neuron_ids is missing"):
        faults(lambda table: table.drop(columns="neuron_ids"))


def test_an_additional_column(faults):
    assert "unknown column score" in faults(lambda table: table.assign(score=1.0))


def test_columns_of_other_types(faults):
    def narrow(table):
        table["trial_indices"] = table["trial_indices"].astype(np.int32)
        table["neuron_ids"] = [ids.astype(np.int64) for ids in table["neuron_ids"]]
        return table

    found = faults(narrow)
    assert "trial_indices has the type int32, expected int64" in found
    assert "neuron_ids has the type list<int64>, expected list<uint32>" in found


def test_a_column_that_cannot_be_read(faults):
    with pytest.raises(PredictionError, match="columns of type"):
        faults(lambda table: table.assign(prediction=1.0))


def _on_first(change):
    """Change the prediction of the first row."""

    def apply(table):
        rows = [[np.array(series) for series in prediction] for prediction in table["prediction"]]
        rows[0] = change(rows[0])
        table["prediction"] = rows
        return table

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row[:40] for row in rows], "40 frames, expected 50"),
        (lambda rows: [*rows[:-1], rows[-1][:40]], "the neurons have from 40 to 50 frames"),
        (lambda rows: [*rows[:-1], rows[-1] * np.nan], "values are NaN or infinite"),
        (lambda rows: rows[:-1], "predictions of 7 neurons, the mouse has 8"),
    ],
)
def test_predictions_of_the_wrong_form(faults, change, message):
    found = faults(_on_first(change))
    assert message in found
    assert "trial " in found


def test_swapped_neurons(faults):
    def swap(table):
        table["neuron_ids"] = [ids[::-1].copy() for ids in table["neuron_ids"]]
        return table

    assert "neuron_ids are not in the order of unit_ids" in faults(swap)


def test_neurons_counted_from_zero(faults):
    def count(table):
        table["neuron_ids"] = [np.arange(len(ids), dtype=np.uint32) for ids in table["neuron_ids"]]
        return table

    assert "neuron_ids are not those of the mouse" in faults(count)


def test_missing_doubled_and_foreign_trials(faults, stores):
    other = int(np.flatnonzero(stores[0].tiers == "final_test_main")[0])

    def mix(table):
        table = pd.concat([table, table.iloc[[1]], table.iloc[[2]].assign(trial_indices=other)], ignore_index=True)
        return table.drop(index=0)

    found = faults(mix)
    trials = np.flatnonzero(stores[0].tiers == "live_test_main").tolist()
    assert f"missing: trial {trials[0]}" in found
    assert f"more than one row: trial {trials[1]}" in found
    assert f"not of the tier live_test_main: trial {other}" in found


def test_a_trial_and_a_mouse_that_do_not_exist(faults):
    found = faults(lambda table: table.assign(trial_indices=table["trial_indices"].where(table.index > 0, 9999)))
    assert "the mouse has no such trial: trial 9999" in found
    assert "mouse somebody (4 rows) is not in" in faults(
        lambda table: table.assign(mouse=["somebody"] * 4 + table["mouse"].tolist()[4:])
    )


def test_values_that_were_not_normalised(faults, stores):
    precisions = {s.name: response_precision(s.statistics("responses", "std").T)[:, 10:60] for s in stores}

    def undo(table):
        table["prediction"] = [
            list(np.array(row.prediction.tolist()) / precisions[row.mouse]) for row in table.itertuples()
        ]
        return table

    assert "not normalised" in faults(undo)


def test_faults_of_a_zip(handed_in, tiny_config, tmp_path):
    folder, raw = handed_in
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / LIVE, f"main/{LIVE}")
    with pytest.raises(PredictionError) as caught:
        score.run(tiny_config, Paths(tmp_path), path, raw)
    assert f"holds main/{LIVE} in a folder" in str(caught.value)
    assert "expected the two files of one track" in str(caught.value)


def test_damaged_files(handed_in, tiny_config, tmp_path):
    folder, raw = handed_in
    path = tmp_path / LIVE
    path.write_bytes((folder / LIVE).read_bytes()[:-100])
    with pytest.raises(PredictionError, match="not a parquet file"):
        score.run(tiny_config, Paths(tmp_path), path, raw)
    with pytest.raises(PredictionError, match="does not exist"):
        score.run(tiny_config, Paths(tmp_path), tmp_path / "none.zip", raw)
    shutil.copy(folder / LIVE, path)
    with pytest.raises(DataError, match="--data"):
        score.run(tiny_config, Paths(tmp_path), path, tmp_path / "nowhere")
