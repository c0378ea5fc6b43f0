"""Verification: every rule is broken once and found; findings come all at once."""

import itertools
import json
import re
import shutil
import sys

import numpy as np
import pytest
import yaml
from tiny import NEW_MOUSE

from sensorium.cli import main
from sensorium.commands import verify
from sensorium.config import parse
from sensorium.errors import DataError
from sensorium.mice import MODALITIES
from sensorium.paths import Paths
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.verify import verify_mouse


@pytest.fixture
def new_mouse(copy_raw, tiny_config):
    """Folder of a private new mouse."""
    name = next(iter(tiny_config.dataset.mice))
    return copy_raw(name) / name


@pytest.fixture
def old_mouse(copy_raw, tiny_config):
    """Folder of a private old mouse."""
    name = list(tiny_config.dataset.mice)[-1]
    return copy_raw(name) / name


def edit(path, change):
    array = np.load(path)
    changed = change(array)
    np.save(path, array if changed is None else changed)


def put(where, value):
    """A change that sets array[where] in place."""

    def change(array):
        array[where] = value

    return change


def trial_of(folder, tier, nth=0):
    return [i for i, t in enumerate(RawMouse(folder).tiers) if t == tier][nth]


def found(report):
    return {(finding.level, finding.rule, finding.file) for finding in report.findings}


def test_sound_mice_have_no_findings(raw_dataset, tiny_config):
    for name, mouse_set in tiny_config.dataset.mice.items():
        for quick in (False, True):
            report = verify_mouse(raw_dataset / name, mouse_set, quick)
            assert report.findings == []
            assert report.neurons == tiny_config.synthetic.neurons[name]
            assert sum(report.tiers.values()) == report.trials == len(RawMouse(raw_dataset / name).tiers)


STRUCTURE = [
    ("meta/trials/tiers.npy", lambda a: np.where(a == "oracle", "orcale", a), "error", "tiers", "unknown tier"),
    ("meta/trials/tiers.npy", lambda a: np.where(a == "train", "oracle", a), "error", "tiers", "no trial of the tier"),
    (
        "meta/trials/tiers.npy",
        lambda a: np.where(a == "oracle", "train", a),
        "warning",
        "tiers",
        "no trial of the tier",
    ),
    ("meta/trials/tiers.npy", put(0, "none"), "warning", "tiers", "which only old mice have"),
    ("meta/trials/trial_idx.npy", lambda a: a[:-1], "error", "trial_idx", "29 entries for 30 trials"),
    ("meta/neurons/unit_ids.npy", put(0, 3), "error", "unit_ids", "more than once"),
    ("meta/neurons/unit_ids.npy", lambda a: a.astype(np.int64), "warning", "unit_ids", "unsigned"),
    ("meta/neurons/cell_motor_coordinates.npy", lambda a: a[:-1], "error", "coordinates", "lists 8 neurons"),
    ("data/videos/4.npy", lambda a: a.astype(np.float32), "error", "dtype", "float32, expected float64"),
    ("data/videos/0.npy", lambda a: a[:-1], "error", "shape", r"\(17, 32, 80\), expected \(18, 32, 80\)"),
    ("data/behavior/4.npy", lambda a: a[0], "error", "shape", r"\(80,\), expected \(2, 80\)"),
    ("data/responses/4.npy", lambda a: a[1:], "error", "shape", "unit_ids.npy lists 8 neurons"),
    ("meta/neurons/cell_motor_coordinates.npy", put((0, 1), np.nan), "warning", "coordinates", "1 neurons lie at NaN"),
    ("meta/statistics/videos/all/std.npy", lambda a: a[0], "error", "statistics", "expected that of a trial"),
    ("meta/statistics/videos/all/std.npy", lambda a: a.astype("f4"), "error", "statistics", "float32, expected"),
]


@pytest.mark.parametrize(("file", "change", "level", "rule", "message"), STRUCTURE)
def test_rules_of_structure(new_mouse, file, change, level, rule, message):
    edit(new_mouse / file, change)
    report = verify_mouse(new_mouse, "new", quick=True)
    assert (level, rule, file) in found(report)
    assert any(re.search(message, finding.message) for finding in report.findings if finding.rule == rule)


def test_missing_extra_and_truncated_files(new_mouse):
    (new_mouse / "data/videos/3.npy").unlink()
    (new_mouse / "data/behavior/900.npy").write_bytes(b"")
    video = new_mouse / "data/videos/5.npy"
    video.write_bytes(video.read_bytes()[:-8])
    shutil.rmtree(new_mouse / "data/pupil_center")
    (new_mouse / "meta/statistics/responses/all/median.npy").unlink()
    (new_mouse / "meta/neurons/unit_ids.npy").unlink()
    for quick in (True, False):
        assert not any(str(new_mouse) in finding.message for finding in verify_mouse(new_mouse, "new", quick).findings)
        assert {
            ("error", "files", "data/videos/3.npy"),
            ("error", "files", "data/videos/5.npy"),
            ("warning", "files", "data/behavior/900.npy"),
            ("error", "files", "data/pupil_center"),
            ("error", "statistics", "meta/statistics/responses/all/median.npy"),
            ("error", "unit_ids", "meta/neurons/unit_ids.npy"),
        } <= found(verify_mouse(new_mouse, "new", quick))


def test_modalities_must_have_one_time_axis(new_mouse):
    for path in (new_mouse / "data/behavior").iterdir():
        edit(path, lambda a: a[:, :-3])
    assert ("error", "shape", "data") in found(verify_mouse(new_mouse, "new", quick=True))


@pytest.mark.parametrize("modality", MODALITIES)
def test_values_that_break_a_rule(old_mouse, modality):
    trial = trial_of(old_mouse, "train")
    file = f"data/{modality}/{trial}.npy"
    sound = np.load(old_mouse / file)
    cases = {
        "tails": [put((..., slice(40, None)), np.nan), put((0, ..., 20), np.nan), put(..., np.nan)],
        "range": [put((0, ..., 20), np.inf), put((0, ..., 20), 1e39)],
    }
    if modality in ("videos", "responses"):
        cases["range"].append(put((0, ..., 20), -1.0))
    for rule, changes in cases.items():
        for change in changes:
            np.save(old_mouse / file, sound)
            edit(old_mouse / file, change)
            report = verify_mouse(old_mouse, "old")
            assert any(f.rule == rule and f.level == "error" and f"{trial}.npy" in f.file for f in report.findings)
            assert verify_mouse(old_mouse, "old", quick=True).findings == []


def test_grey_levels_from_0_to_1_are_not_taken_for_darkness(new_mouse):
    scaled, dark, white = (trial_of(new_mouse, "train", n) for n in range(3))
    edit(new_mouse / f"data/videos/{scaled}.npy", lambda a: a / 255)
    edit(new_mouse / f"data/videos/{dark}.npy", lambda a: a * 0)
    edit(new_mouse / f"data/videos/{white}.npy", lambda a: a * 0 + 0.5 * (np.arange(a.shape[-1]) > 9) * 4)
    findings = [f for f in verify_mouse(new_mouse, "new").findings if f.level == "error"]
    assert [(f.rule, f.file) for f in findings] == [("range", f"data/videos/{scaled}.npy")]
    assert findings[0].message == "grey levels from 0 to 1, expected 0 to 255"


def test_recordings_one_folder_too_deep_are_found(new_mouse):
    inner = new_mouse.rename(new_mouse.parent / "moved")
    new_mouse.mkdir()
    inner = inner.rename(new_mouse / new_mouse.name)
    (finding,) = verify_mouse(new_mouse, "new").findings
    assert finding.message == f"{inner}: the recordings lie one folder too deep.\nMove what is in there to {new_mouse}."
    with pytest.raises(DataError, match="one folder too deep"):
        RawMouse(new_mouse)


def test_withheld_and_labelled_responses(new_mouse, old_mouse):
    zero = lambda a: np.where(np.isnan(a), a, 0)  # noqa: E731
    oracle, withheld = trial_of(new_mouse, "oracle"), trial_of(new_mouse, "final_test_main")
    edit(new_mouse / f"data/responses/{oracle}.npy", zero)
    edit(new_mouse / f"data/responses/{withheld}.npy", put((0, 0), 1.0))
    assert found(verify_mouse(new_mouse, "new")) == {
        ("error", "withheld", f"data/responses/{oracle}.npy"),
        ("warning", "withheld", f"data/responses/{withheld}.npy"),
    }
    released = trial_of(old_mouse, "live_test_main")
    edit(old_mouse / f"data/responses/{released}.npy", zero)
    assert found(verify_mouse(old_mouse, "old")) == {("warning", "withheld", f"data/responses/{released}.npy")}


def test_withheld_responses_need_no_nan_tail(new_mouse):
    edit(new_mouse / f"data/responses/{trial_of(new_mouse, 'live_test_bonus')}.npy", np.zeros_like)
    assert verify_mouse(new_mouse, "new").findings == []


def test_an_unusable_trial_only_warns(old_mouse):
    trial = trial_of(old_mouse, "none")
    edit(old_mouse / f"data/behavior/{trial}.npy", put(..., np.nan))
    assert {level for level, *_ in found(verify_mouse(old_mouse, "old"))} == {"warning"}


def test_usable_trials_must_be_as_long_as_the_window_needs(old_mouse):
    used, unusable = trial_of(old_mouse, "live_test_main"), trial_of(old_mouse, "none")
    for trial, modality in itertools.product((used, unusable), MODALITIES):
        edit(old_mouse / f"data/{modality}/{trial}.npy", put((..., slice(31, None)), np.nan))
    assert verify_mouse(old_mouse, "old", shortest=31).findings == []
    findings = verify_mouse(old_mouse, "old", shortest=32).findings
    assert [(f.level, f.rule, f.file) for f in findings] == [("error", "length", f"data/videos/{used}.npy")]
    assert findings[0].message.startswith("31 frames, fewer than the 32 that the window of params.yaml needs")


@pytest.mark.parametrize(
    ("name", "change"),
    [("std", put((0, ..., 0), -1.0)), ("mean", put((0, ..., 0), 1e9)), ("max", put((0, ..., 0), np.inf))],
)
def test_statistics_that_contradict_themselves(new_mouse, name, change):
    file = f"meta/statistics/pupil_center/all/{name}.npy"
    edit(new_mouse / file, change)
    assert ("error", "statistics", file) in found(verify_mouse(new_mouse, "new"))


def test_repeats_are_judged_by_the_video(new_mouse):
    first, second = (trial_of(new_mouse, "train", n) for n in (0, 1))
    shutil.copy(new_mouse / f"data/videos/{first}.npy", new_mouse / f"data/videos/{second}.npy")
    lone = trial_of(new_mouse, "live_test_main")
    edit(new_mouse / f"data/videos/{lone}.npy", lambda a: a[::-1])
    findings = {(f.rule, f.file): f for f in verify_mouse(new_mouse, "new").findings}
    assert findings["repeats", f"data/videos/{second}.npy"].message == f"shows the same video as training trial {first}"
    assert "no other trial shows this one" in findings["repeats", f"data/videos/{lone}.npy"].message


def test_the_verb_reports_all_mice_and_fails(copy_raw, tiny_config, tmp_path, capsys):
    first, second, third = tiny_config.dataset.mice
    raw = copy_raw(first, third)
    (raw / third / "data/videos/0.npy").unlink()
    config = tiny_config.model_copy(update={"dataset": tiny_config.dataset.model_copy(update={"raw": str(raw)})})
    report = tmp_path / "findings.json"
    with pytest.raises(DataError, match="2 errors in 2 of 3 mice") as fault:
        verify.run(config, Paths(tmp_path), json=report)
    assert "findings.json" in fault.value.remedy
    assert f"the first: {raw / second}: the mouse's folder does not exist" in fault.value.problem
    tree = json.loads(report.read_text())
    assert [mouse["mouse"] for mouse in tree["mice"]] == [first, second, third]
    assert [mouse["errors"] for mouse in tree["mice"]] == [0, 1, 1]
    assert tree["mice"][1]["findings"][0]["rule"] == "folder"
    assert tree["mice"][2]["findings"][0]["file"] == "data/videos/0.npy"
    output = capsys.readouterr().out
    assert all(mouse in output for mouse in (first, second, third))


def test_the_verb_knows_the_window(tiny_config, tmp_path):
    tree = tiny_config.model_dump(mode="json")
    verify.run(parse(tree | {"window": {"frames": 31, "step": 2}}, "here"), Paths(tmp_path), NEW_MOUSE)
    longer = parse(tree | {"window": {"frames": 37, "step": 2}}, "here")  # 73 frames, trials have 68 to 72
    words = rf"30 errors in 1 of 1 mice, .*{NEW_MOUSE}/data/videos/0.npy: \d+ frames, fewer than the 74 that"
    with pytest.raises(DataError, match=words):
        verify.run(longer, Paths(tmp_path), NEW_MOUSE)


def test_findings_are_shown_where_they_cannot_be_written(raw_dataset, tiny_config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        verify.run(tiny_config, Paths(tmp_path), NEW_MOUSE, quick=True, json=tmp_path / "file" / "all.json")
    assert f"{NEW_MOUSE} (new): 30 trials, 8 neurons: sound" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--quick", "--json=all.json"])
def test_options_of_the_raw_mice_are_refused_for_stores(tiny_config, tmp_path, monkeypatch, capsys, option):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_config.model_dump(mode="json"), sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sensorium", "verify", "--stores", option])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "--stores: checks checksums alone" in capsys.readouterr().err


def test_the_command_line_exits_with_the_verdict(raw_dataset, tiny_config, tmp_path, monkeypatch, capsys):
    tree = tiny_config.model_dump(mode="json") | {}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sensorium", "verify", "--quick", "--json", "all.json"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert json.loads((tmp_path / "all.json").read_text())["mice"][0]["quick"] is True

    tree["dataset"]["raw"] = "nowhere"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.setattr(sys, "argv", ["sensorium", "verify"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert "the mouse's folder does not exist" in error
    assert "Traceback" not in error
