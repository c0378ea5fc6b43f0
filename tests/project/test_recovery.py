"""Outputs that are missing: wrong settings remove none, and the command that a message names brings them back."""

import os
import shlex
import shutil

import pytest
import yaml
from tiny import ROOT, tiny_tree
from typed_commands import typed

from sensorium.recovery import remedy

_STAGES = """
  train:
    cmd: python -c "import pathlib, time; p = pathlib.Path('data/experiments/a/fold_0'); p.mkdir(parents=True);
      (p / 'config.json').write_text('trained')"
    params: [experiments.true_batch_001]
    deps: [data/store]
    outs: [data/experiments/a/fold_0]
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The first stages of dvc.yaml and a training after them, all up to date."""
    root = tmp_path_factory.mktemp("template")
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    ingest = graph["stages"]["ingest"]
    ingest["do"] |= {"cmd": "mkdir -p data/store/${key}.zarr", "deps": ["data/settings.txt"]}
    stages = {"settings": graph["stages"]["settings"], "ingest": ingest, **yaml.safe_load(_STAGES)}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (root / "sensorium").mkdir()
    shutil.copy(ROOT / "sensorium" / "config.py", root / "sensorium")
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_tree()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert dvc("init", "--no-scm", "--quiet").returncode == 0
        done = dvc("repro")
        assert done.returncode == 0, done.stderr
    return root


def dvc(*arguments):
    return typed(f"dvc {shlex.join(arguments)}")


def test_settings_that_are_wrong_are_refused_before_anything_is_removed(project):
    fold, tree = project / "data" / "experiments" / "a" / "fold_0", tiny_tree()
    tree["experiments"]["true_batch_001"]["training"]["learning_rate"] = -1.0
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    failed = dvc("repro", "train")
    assert failed.returncode != 0
    assert "learning_rate: Input should be greater than 0, found -1.0" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (fold / "config.json").read_text() == "trained"


def test_settings_that_concern_no_stage_run_none_but_their_check(project):
    tree = tiny_tree()
    tree["evaluation"]["frames"] -= 1
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    done = dvc("repro")
    assert [line for line in done.stdout.splitlines() if "Running stage" in line] == ["Running stage 'settings':"]


def command_of(advice):
    assert advice.startswith("Type `"), advice
    return advice.split("`")[1]


def test_the_command_brings_an_output_back_from_the_cache(project):
    fold = project / "data" / "experiments" / "a" / "fold_0"
    shutil.rmtree(fold)
    advice = remedy(fold, "Train it.")
    assert advice == "Type `dvc checkout data/experiments/a/fold_0`: it is in DVC's cache."
    assert typed(command_of(advice)).returncode == 0
    assert (fold / "config.json").read_text() == "trained"
    assert remedy(fold.parent, "") == remedy(fold / "config.json", "") == remedy(fold, "")


def test_the_command_replaces_a_damaged_file_whose_time_and_size_are_the_same(project):
    file = project / "data" / "experiments" / "a" / "fold_0" / "config.json"
    known = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"T")
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert typed(command_of(remedy(file, ""))).returncode == 0
    assert file.read_text() == "trained"


def test_the_command_is_right_in_a_folder_below_the_root(project, monkeypatch):
    fold = project / "data" / "experiments" / "a" / "fold_0"
    monkeypatch.chdir(project / "sensorium")
    assert typed(command_of(remedy(fold, ""))).returncode == 0
    assert (fold / "config.json").read_text() == "trained"


def test_the_command_pulls_what_a_remote_has(project, tmp_path_factory):
    remote = tmp_path_factory.mktemp("remote")
    assert dvc("remote", "add", "--default", "shelf", str(remote)).returncode == 0
    assert dvc("push").returncode == 0
    fold = project / "data" / "experiments" / "a" / "fold_0"
    shutil.rmtree(fold)
    shutil.rmtree(project / ".dvc" / "cache")
    advice = remedy(fold, "Train it.")
    assert advice == "Type `dvc pull data/experiments/a/fold_0`: it is in the remote 'shelf'."
    assert typed(command_of(advice)).returncode == 0
    assert (fold / "config.json").read_text() == "trained"


def test_a_cache_that_the_users_own_settings_name_counts(project, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "dvc"))
    assert dvc("config", "--global", "cache.dir", str(tmp_path / "cache")).returncode == 0
    shutil.move(project / ".dvc" / "cache", tmp_path / "cache")
    fold = project / "data" / "experiments" / "a" / "fold_0"
    shutil.rmtree(fold)
    assert typed(command_of(remedy(fold, ""))).returncode == 0
    assert (fold / "config.json").read_text() == "trained"


@pytest.mark.parametrize("name", ["data/experiments/b/fold_0", "notes.txt"])
def test_what_no_stage_made_is_made_as_before(project, name):
    assert remedy(project / name, "Train it.") == "Train it."


def test_what_is_nowhere_is_made_anew(project):
    fold = project / "data" / "experiments" / "a" / "fold_0"
    listing = next(path for path in (project / ".dvc" / "cache").rglob("*.dir"))
    (one,) = (
        path
        for path in (project / ".dvc" / "cache" / "files").rglob("*")
        if path.is_file() and path != listing and path.read_bytes() == b"trained"
    )
    one.unlink()
    assert remedy(fold, "Train it.") == "Train it."
    dvc("remote", "add", "--default", "far", "s3://user:secret@bucket/data")
    advice = remedy(fold, "Train it.")
    assert advice == "Type `dvc pull data/experiments/a/fold_0` where it was pushed. Train it."
