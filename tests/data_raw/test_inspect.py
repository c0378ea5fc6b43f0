"""Looking at a mouse or a trial: what is printed, what is drawn, and what is refused."""

import base64
import io
import re
import shutil
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import MICE, NEW_MOUSE, OLD_MOUSE, tiny_tree

from sensorium.cli import main
from sensorium.commands import inspect
from sensorium.data.folds import Folds
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError
from sensorium.paths import Paths
from sensorium.recordings.figures import choose_neurons, draw_trial
from sensorium.recordings.ingest import ingest
from sensorium.recordings.inspect import count_tiers, mean_responses, trial_facts
from sensorium.recordings.raw import RawMouse
from sensorium.stages import folds as folds_stage
from sensorium.stages import ingest as ingest_stage


@pytest.fixture(scope="module")
def built(tiny_config, tmp_path_factory):
    """A project with stores and folds; only its reports/ are written to."""
    paths = Paths(tmp_path_factory.mktemp("inspected"))
    for mouse in MICE:
        ingest_stage.run(tiny_config, paths, mouse)
    folds_stage.run(tiny_config, paths)
    (paths.root / "params.yaml").write_text(yaml.safe_dump(tiny_tree()), encoding="utf-8")
    return paths


@pytest.fixture
def store(built):
    return MouseStore(built.store(NEW_MOUSE))


@pytest.fixture
def private(built, tmp_path):
    """A copy that may be damaged."""
    shutil.copytree(built.root, tmp_path / "project", ignore=shutil.ignore_patterns("reports"))
    return Paths(tmp_path / "project")


def type_command(monkeypatch, capsys, root, *arguments):
    """Type `sensorium inspect ...` in a project; returns its exit code, output and error output."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["sensorium", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, *capsys.readouterr()


def pixels(source):
    with Image.open(source) as image:
        return np.asarray(image.convert("L"))


def facts_printed(text):
    return dict(re.findall(r"^(\w[\w ]*?) {2,}(\S.*)$", text, re.MULTILINE))


def trial_of(store, tier):
    return int(np.flatnonzero(store.tiers == tier)[0])


def test_a_mouse_is_printed_and_drawn(built, store, monkeypatch, capsys):
    code, text, _ = type_command(monkeypatch, capsys, built.root, "-m", NEW_MOUSE)
    assert code == 0
    facts = facts_printed(text)
    assert facts["mouse"] == f"{NEW_MOUSE}, new set"
    assert facts["trials"] == f"{store.trials}, {store.labels.sum()} of them labelled"
    assert facts["neurons"] == "8"
    assert facts["noiseless rates"] == "known"
    assert facts["length"].startswith(f"{store.lengths.min()} to {store.lengths.max()} frames at 30 Hz")
    assert re.search(r"train +│ +10 +│ +10 +│", text)
    assert f"Wrote reports/inspect/{NEW_MOUSE}.png." in text
    picture = pixels(built.root / "reports" / "inspect" / f"{NEW_MOUSE}.png")
    assert min(picture.shape) > 600
    assert picture.std() > 10


def test_tiers_and_folds_are_counted(built, store):
    folds = Folds.load(built.folds).of(NEW_MOUSE)
    counts = count_tiers(store, folds)
    assert sum(row.trials for row in counts) == store.trials
    assert np.sum([row.folds for row in counts], axis=0).tolist() == np.bincount(folds[folds >= 0]).tolist()
    by_tier = {row.tier: row for row in counts}
    assert (by_tier["train"].trials, by_tier["train"].labelled) == (10, 10)
    assert by_tier["live_test_main"].labelled == sum(by_tier["live_test_main"].folds) == 0
    assert all(row.folds == [] for row in count_tiers(store, None))


def test_mean_responses_are_those_of_the_training_trials(store):
    chosen = np.flatnonzero(store.tiers == "train")
    trials = [store.responses(int(trial)) for trial in chosen]
    direct = np.concatenate(trials).mean(axis=0)
    # The statistics weigh frames equally, and the last few are those of the longer trials alone.
    assert np.allclose(mean_responses(store), direct, rtol=0.1)


def test_a_trial_is_printed_and_drawn(built, store, capsys, tiny_config):
    trial = trial_of(store, "oracle")
    (written,) = inspect.run(tiny_config, built, NEW_MOUSE, trial)
    assert written == built.root / "reports" / "inspect" / f"{NEW_MOUSE}-trial_{trial}.png"
    facts = facts_printed(capsys.readouterr().out)
    assert facts["tier"] == "oracle"
    assert facts["fold"] == str(Folds.load(built.folds).of(NEW_MOUSE)[trial])
    assert facts["length"].startswith(f"{store.lengths[trial]} frames")
    assert facts["video hash"] == f"{store.video_hashes[trial]:016x}"
    assert pixels(written).std() > 10
    first = written.read_bytes()
    inspect.run(tiny_config, built, NEW_MOUSE, trial)
    assert written.read_bytes() == first


def texts(figure):
    """All labels of a figure's axes and legends."""
    axes = figure.get_axes()
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [own.get_ylabel() for own in axes], legends, [text.get_text() for own in axes for text in own.texts]


def test_the_neurons_that_vary_most_are_drawn_with_the_rate_behind_them(store):
    trial = trial_of(store, "train")
    variances = store.responses(trial).var(axis=0, dtype=np.float64)
    chosen = choose_neurons(store.responses(trial))
    assert chosen == sorted(range(store.neurons), key=lambda neuron: -variances[neuron])[:5]
    labels, legend, _ = texts(draw_trial(store, trial))
    assert labels[:4] == ["video", "pupil\ndilation", "running\nspeed", "pupil centre\nless its mean"]
    assert labels[4:] == [f"unit {store.unit_ids[neuron]}" for neuron in chosen]
    assert legend == ["measured", "noiseless rate"]


def test_equal_variances_go_to_the_first_neurons():
    assert choose_neurons(np.ones((4, 9), dtype=np.float32), 3) == [0, 1, 2]


def test_withheld_responses_are_not_drawn_as_zeros(store, raw_dataset, tmp_path):
    trial = trial_of(store, "final_test_main")
    _, legend, _ = texts(draw_trial(store, trial))
    assert legend == ["noiseless rate"]
    assert trial_facts(store, trial, -1)["fold"] == "none, its responses are no data"
    ingest(RawMouse(raw_dataset / NEW_MOUSE), "new", tmp_path / "real.zarr", None, lambda: None)
    _, legend, notes = texts(draw_trial(MouseStore(tmp_path / "real.zarr"), trial))
    assert legend == []
    assert notes == ["responses withheld"]


def test_a_page_holds_all_mice_and_needs_nothing_else(built, tmp_path, tiny_config):
    out = tmp_path / "deep" / "mice.html"
    assert inspect.run(tiny_config, built, out=out) == [out]
    page = out.read_text(encoding="utf-8")
    assert [mouse for mouse in MICE if f"<h1>{mouse}</h1>" in page] == list(MICE)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == len(MICE)
    for source in sources:
        assert pixels(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))).std() > 10
    assert "http" not in page


def test_before_folds_are_assigned_the_rest_is_shown(private, capsys, tiny_config):
    shutil.rmtree(private.folds)
    inspect.run(tiny_config, private, OLD_MOUSE)
    assert "No fold is assigned yet: run `dvc repro folds`." in capsys.readouterr().out
    inspect.run(tiny_config, private, OLD_MOUSE, 0)
    assert facts_printed(capsys.readouterr().out)["fold"] == "not assigned yet: run `dvc repro folds`"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["-m", "mickey"], "mouse 'mickey': not in params.yaml.", 2),
        (["-m", NEW_MOUSE, "-t", "999"], f"trial 999: {NEW_MOUSE} has ", 2),
        (["-m", NEW_MOUSE, "-t", "-1"], f"trial -1: {NEW_MOUSE} has ", 2),
        (["-t", "0"], "--trial 0: of which mouse?", 2),
        (["-m", NEW_MOUSE, "--out", "mouse.pdf"], "--out mouse.pdf: unknown file ending '.pdf'.", 2),
        (["-m", NEW_MOUSE, "--out", "mouse"], "--out mouse: unknown file ending ''.", 2),
        (["--out", "mice.png"], "--out mice.png: a PNG shows one mouse.", 2),
        (["-m", NEW_MOUSE, "--out", "params.yaml/mouse.png"], "params.yaml/mouse.png: cannot be written (", 2),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(arguments, words, code, private, monkeypatch, capsys):
    before = sorted(private.root.rglob("*"))
    stopped, _, errors = type_command(monkeypatch, capsys, private.root, *arguments)
    assert stopped == code
    assert errors.startswith(f"Error: {words}")
    assert len(errors.splitlines()) == 2
    assert sorted(private.root.rglob("*")) == before


def test_a_missing_store_says_how_to_build_it(private, monkeypatch, capsys, tiny_config):
    shutil.rmtree(private.store(OLD_MOUSE))
    code, _, errors = type_command(monkeypatch, capsys, private.root, "-m", OLD_MOUSE)
    assert code == 1
    assert errors.startswith(f"Error: {private.store(OLD_MOUSE)}: the store does not exist.\nRun `dvc repro ingest`.")
    with pytest.raises(DataError, match="the store does not exist"):
        inspect.run(tiny_config, private)
    assert not private.inspection.exists()


def test_statistics_without_a_value_are_named(raw_dataset, copy_raw, tmp_path):
    raw = RawMouse(copy_raw(NEW_MOUSE) / NEW_MOUSE)
    path = raw.folder / "meta/statistics/responses/all/mean.npy"
    values = np.load(path)
    values[2:4] = np.nan
    np.save(path, values)
    ingest(raw, "new", tmp_path / "store", None, lambda: None)
    with pytest.raises(DataError, match=r"statistics/responses holds no mean of 2 neurons") as fault:
        mean_responses(MouseStore(tmp_path / "store"))
    assert "sensorium verify" in fault.value.remedy


def test_folds_of_other_stores_are_refused(private, tiny_config):
    table = private.folds / "folds.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if line.startswith(OLD_MOUSE))
    table.write_text("".join(lines[:last] + lines[last + 1 :]), encoding="utf-8")
    (private.folds / "report.json").unlink()  # whose digest is that of the table before
    with pytest.raises(DataError, match=r"folds: \d+ trials of mouse .*, its store has \d+\.\nRun `dvc repro folds`"):
        inspect.run(tiny_config, private, OLD_MOUSE, 0)


def test_errors_of_options_come_before_any_store_is_opened(tmp_path, tiny_config):
    with pytest.raises(ConfigError, match="unknown file ending"):
        inspect.run(tiny_config, Paths(tmp_path), NEW_MOUSE, None, tmp_path / "mouse.svg")
