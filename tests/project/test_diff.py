"""What changed between two revisions, in a project of two mice and no training."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny import NEW_MOUSE, OLD_MOUSE, make_config

from sensorium.commands import diff as verb
from sensorium.config import Config
from sensorium.errors import ConfigError
from sensorium.files import write_text
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.stages import folds, ingest

MICE = {NEW_MOUSE: "new", OLD_MOUSE: "old"}
TRIAL, OUTS = 2, ("data/folds", "reports/evaluation")


def run(root: Path, *command: str) -> None:
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def settings(raw: Path, mice: dict[str, str]) -> Config:
    config = make_config(str(raw))
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"mice": mice}), "pipeline": None})


def write_scores(root: Path, gain: float) -> None:
    """Scores of one source; those of every mouse and fold rise by `gain`."""
    rows = [("a", "all", "all", "all", 0.5 + gain)]
    rows += [("a", mouse, fold, "all", 0.4 + 0.1 * fold + gain) for mouse in MICE for fold in (0, 1)]
    columns = ["source", "mouse", "fold", "tier", "single_trial_correlation"]
    write_text(Paths(root).evaluation / "scores.csv", pd.DataFrame(rows, columns=columns).to_csv(index=False))


def commit(root: Path, config: Config, gain: float) -> None:
    """Make all outputs, and commit them as the stages of a pipeline."""
    for mouse in config.dataset.mice:
        ingest.run(config, Paths(root), mouse)
    folds.run(config, Paths(root))
    write_scores(root, gain)
    outs = [*(f"data/store/{mouse}.zarr" for mouse in config.dataset.mice), *OUTS]
    write_text(root / PARAMS_FILE, yaml.safe_dump(config.model_dump(mode="json", exclude={"pipeline"})))
    write_text(root / "dvc.yaml", yaml.safe_dump({"stages": {"all": {"cmd": "true", "outs": outs}}}))
    run(root, "dvc", "commit", "--force", "--quiet")
    run(root, "git", "add", "--all")
    run(root, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "state")


@pytest.fixture
def project(tmp_path: Path, copy_raw: Callable[..., Path]) -> tuple[Path, Path]:
    """A project with one commit, and its raw mice."""
    root, raw = tmp_path / "project", copy_raw(*MICE, to=tmp_path / "raw")
    root.mkdir()
    run(root, "git", "init", "--quiet")
    run(root, "dvc", "init", "--quiet")
    write_text(root / ".gitignore", "/data\n/reports\n/.sensorium\n")
    commit(root, settings(raw, MICE), gain=0.0)
    return root, raw


def found(root: Path, capsys: pytest.CaptureFixture[str], *revisions: str) -> dict[str, object]:
    capsys.readouterr()
    verb.run(Paths(root), *revisions, as_json=True)
    tree: dict[str, object] = json.loads(capsys.readouterr().out)
    return tree


def test_nothing_changed(project: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    verb.run(Paths(project[0]), "HEAD")
    assert "No difference" in capsys.readouterr().out


def test_changes_are_named_by_mouse_tier_trial_neuron_and_score(
    project: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, raw = project
    responses = raw / OLD_MOUSE / "data" / "responses" / f"{TRIAL}.npy"
    np.save(responses, np.load(responses) * 2)
    tiers = raw / OLD_MOUSE / "meta" / "trials" / "tiers.npy"
    names = np.load(tiers)
    before, names[TRIAL] = str(names[TRIAL]), "oracle"
    np.save(tiers, names)
    units = raw / OLD_MOUSE / "meta" / "neurons" / "unit_ids.npy"
    ids = np.load(units)
    np.save(units, np.where(ids == ids[0], 9999, ids))
    config = settings(raw, MICE)
    commit(root, config.model_copy(update={"seed": 7}), gain=0.1)

    tree = found(root, capsys, "HEAD~1", "HEAD")
    (mouse,) = tree["mice"]  # type: ignore[misc]
    assert (mouse["mouse"], mouse["state"]) == (OLD_MOUSE, "changed")
    assert (mouse["neurons_added"], mouse["neurons_removed"]) == ([9999], [int(ids[0])])
    assert mouse["changed"]["tier"] == [TRIAL]
    assert set(mouse["tiers"]) == {before, "oracle"}
    assert tree["settings"] == {"seed": [0, 7]}
    old, new, interval = tree["scores"]["a"]  # type: ignore[index]
    assert (old, new) == (0.5, 0.6)
    assert interval["mean"] == pytest.approx(0.1)

    verb.run(Paths(root), "HEAD~1")
    text = capsys.readouterr().out
    for said in ("neurons added: 9999", f"tier differs in trials {TRIAL}", "better", "| `seed` | `0` | `7` |"):
        assert said in text


def test_changed_responses_are_found(project: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root, raw = project
    responses = raw / OLD_MOUSE / "data" / "responses" / f"{TRIAL}.npy"
    np.save(responses, np.load(responses) * 2)
    commit(root, settings(raw, MICE), gain=0.0)
    (mouse,) = found(root, capsys, "HEAD~1")["mice"]  # type: ignore[misc]
    assert mouse["changed"] == {"responses": [TRIAL]}


def test_a_mouse_that_was_removed(project: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root, raw = project
    commit(root, settings(raw, {NEW_MOUSE: "new"}), gain=0.0)
    (mouse,) = found(root, capsys, "HEAD~1")["mice"]  # type: ignore[misc]
    assert (mouse["mouse"], mouse["state"]) == (OLD_MOUSE, "removed")
    (mouse,) = found(root, capsys, "HEAD", "HEAD~1")["mice"]  # type: ignore[misc]
    assert (mouse["mouse"], mouse["state"]) == (OLD_MOUSE, "added")


def test_unknown_revisions_are_refused(project: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="no commit, branch or tag"):
        verb.run(Paths(project[0]), "nowhere")


def test_outputs_that_are_gone_are_named_and_the_others_compared(
    project: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, raw = project
    commit(root, settings(raw, {NEW_MOUSE: "new"}), gain=0.1)
    run(root, "dvc", "gc", "--workspace", "--force")
    lost = {f"data/store/{OLD_MOUSE}.zarr", "data/folds", "reports/evaluation"}
    change = found(root, capsys, "HEAD~1")
    assert change["lost"] == dict.fromkeys(lost, "HEAD~1")
    assert not any(change[part] for part in ("mice", "folds", "scores"))
    assert f"dataset.mice.{OLD_MOUSE}" in change["settings"]
    verb.run(Paths(root), "HEAD~1")
    assert capsys.readouterr().out.count("differs, but") == len(lost)
    assert not list((root / ".sensorium").glob("tmp*"))
