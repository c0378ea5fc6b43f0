"""`sensorium doctor`: each kind of damage is named, and the command that a finding names, or --fix, mends it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
import yaml
from tiny import derived, tiny_tree
from typed_commands import typed

from sensorium.commands import doctor
from sensorium.doctor.finding import Finding, Project, examine
from sensorium.errors import DataError
from sensorium.paths import Paths

_PIPELINE = {
    "weights": {
        "cmd": "mkdir -p data/experiments/a/fold_0 && printf 'tensors' > data/experiments/a/fold_0/model.safetensors"
        ' && echo \'{"weights": {"bytes": 7}}\' > data/experiments/a/fold_0/config.json',
        "outs": ["data/experiments/a/fold_0"],
    },
    "single": {"cmd": "mkdir -p data && echo one > data/one.txt", "outs": ["data/one.txt"]},
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project in git whose stages have run, with a remote that holds its outputs."""
    root = tmp_path_factory.mktemp("doctor") / "project"
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(derived(tiny_tree()), sort_keys=False))
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": _PIPELINE}))
    (root / ".gitignore").write_text("/data/\n/.sensorium/\n/remote/\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for text in (
            "git init -q && dvc init -q && dvc remote add -q --default near remote && mkdir remote",
            "dvc repro -q && dvc push -q && git add -A && git commit -qm first",
        ):
            done = typed(text)
            assert done.returncode == 0, done.stderr
    return root


def examined(capsys, *, deep=False, fix=False):
    """What `sensorium doctor --json` prints, without notes, and its exit code."""
    capsys.readouterr()
    code = 0
    try:
        doctor.run(Paths(Path.cwd()), deep=deep, as_json=True, fix=fix)
    except typer.Exit as left:
        code = left.exit_code
    result = json.loads(capsys.readouterr().out)
    found = [each for each in result["findings"] if each["severity"] != "note"]
    assert code == any(each["severity"] == "error" for each in found)
    return found, result["fixed"]


def only(found):
    assert len(found) == 1, found
    return found[0]


FOLD = Path("data/experiments/a/fold_0")
LISTED = "data/experiments/a/fold_0: "


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_project_has_no_finding(project, capsys, deep):
    assert examined(capsys, deep=deep) == ([], [])


def remove_output():
    shutil.rmtree(FOLD)


def remove_file():
    (FOLD / "config.json").unlink()


def truncate():
    os.truncate(FOLD / "model.safetensors", 3)


def empty():
    Path("data/one.txt").write_text("")


def flip_bit(path=FOLD / "model.safetensors", *, unseen=False):
    status, content = path.stat(), bytearray(path.read_bytes())
    content[2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    if unseen:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def break_params():
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("learning_rate: 0.05", "learning_rate: -1"))


def outdate_pipeline():
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["folds"]["train"] = {"fold_0": 0}
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def conflict():
    text = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n")


def garbage_lock():
    Path("dvc.lock").write_text("stages: [")


def remove_pipeline():
    Path("dvc.yaml").unlink()


def stale_lock():
    Path(".dvc/tmp").mkdir(exist_ok=True)
    Path(".dvc/tmp/rwlock").write_text('{"half')


def empty_cache():
    shutil.rmtree(".dvc/cache/files")
    remove_output()


def add_stage():
    tree = yaml.safe_load(Path("dvc.yaml").read_text())
    tree["stages"]["new"] = {"cmd": "echo two > data/two.txt", "outs": ["data/two.txt"]}
    Path("dvc.yaml").write_text(yaml.safe_dump(tree))


_FAULTS = {
    remove_output: f"{LISTED}the output is missing.",
    remove_file: f"{LISTED}config.json missing.",
    truncate: f"{LISTED}not the output that dvc.lock records: model.safetensors changed or damaged.",
    flip_bit: f"{LISTED}not the output that dvc.lock records: model.safetensors changed or damaged.",
    empty: "data/one.txt: not the output that dvc.lock records: its content is changed or damaged.",
    outdate_pipeline: "params.yaml: pipeline: does not fit the dataset",
    conflict: "dvc.lock: line 1 is a conflict marker of git.",
    garbage_lock: "dvc.lock: damaged: ",
    remove_pipeline: "dvc.yaml: the file does not exist.",
    stale_lock: ".dvc/tmp/rwlock: left by a process that was killed; DVC refuses every command.",
    empty_cache: f"{LISTED}the output is missing.",
    add_stage: "dvc.lock: new: never run.",
}


@pytest.mark.parametrize("damage", _FAULTS, ids=lambda damage: damage.__name__)
def test_the_command_that_a_finding_names_mends_it(project, capsys, damage):
    damage()
    found, _ = examined(capsys)
    matching = [each for each in found if each["what"].startswith(_FAULTS[damage])]
    command = re.search(r"`([^`]+)`", only(matching)["remedy"])[1]
    done = typed(command)
    assert done.returncode == 0, done.stderr
    left, _ = examined(capsys)
    assert not [each for each in left if each["what"].startswith(_FAULTS[damage])]
    assert not [each for each in left if each["severity"] == "error"]


@pytest.mark.parametrize("damage", [remove_output, remove_file, outdate_pipeline, stale_lock], ids=lambda d: d.__name__)
def test_fix_mends_what_can_be_had_again(project, capsys, damage):
    damage()
    found, fixed = examined(capsys, fix=True)
    assert found == []
    assert only(fixed).startswith("fixed: ")
    assert (FOLD / "config.json").is_file()


def test_fix_keeps_what_was_changed(project, capsys):
    Path("data/one.txt").write_text("by hand")
    found, fixed = examined(capsys, fix=True)
    assert only(found)["severity"] == "error"
    assert fixed == []
    assert Path("data/one.txt").read_text() == "by hand"


def test_settings_that_are_wrong_are_named_with_their_key(project, capsys):
    break_params()
    found, _ = examined(capsys)
    assert "learning_rate: Input should be greater than 0, found -1" in only(found)["what"]


def test_a_flipped_bit_with_the_old_time_stamp_is_found_by_reading(project, capsys):
    assert typed("dvc status").returncode == 0  # DVC knows the files of the copy now
    path = FOLD / "model.safetensors"
    flip_bit(path, unseen=True)
    found, _ = examined(capsys, deep=True)
    assert only(found)["what"].startswith(_FAULTS[flip_bit])


def _rotten_object():
    """An object of the cache with another content than its name says: the weights'."""
    rotten = next(path for path in Path(".dvc/cache/files/md5").glob("??/*") if path.read_bytes() == b"tensors")
    flip_bit(rotten, unseen=True)
    return rotten


@pytest.mark.parametrize("from_remote", [False, True])
def test_a_rotten_object_is_replaced_by_an_intact_copy(project, capsys, from_remote):
    rotten = _rotten_object()
    if from_remote:
        shutil.rmtree(FOLD)
    found, _ = examined(capsys, deep=True)
    named = [each for each in found if f"{rotten}: damaged" in each["what"]]
    command = re.search(r"`([^`]+)`", only(named)["remedy"])[1]
    copy = Path("copy")
    shutil.copytree(".dvc/cache", copy)
    assert typed(command).returncode == 0
    assert rotten.read_bytes() == b"tensors"

    shutil.rmtree(".dvc/cache")
    copy.rename(".dvc/cache")
    assert rotten.read_bytes() != b"tensors"
    _, fixed = examined(capsys, deep=True, fix=True)
    assert f"{rotten} was replaced by the intact copy" in "".join(fixed)
    assert rotten.read_bytes() == b"tensors"


def test_a_remote_that_is_away_is_named(project, capsys):
    shutil.rmtree("remote")
    found, _ = examined(capsys)
    assert only(found)["what"].startswith("remote 'near': the folder")


def test_a_remote_that_is_not_the_default_is_named(project, capsys):
    config = Path(".dvc/config")
    local = config.read_text().replace("remote = near", "")
    config.write_text("")
    Path(".dvc/config.local").write_text(local)
    found, _ = examined(capsys)
    finding = only(found)
    assert finding["what"].startswith("remotes: none is the default")
    assert "`dvc remote default NAME` with one of near" in finding["remedy"]


@pytest.mark.parametrize("deep", [False, True])
def test_a_project_without_dvc_is_examined_all_the_same(project, capsys, deep):
    Path(".dvc").rename("elsewhere")
    found, _ = examined(capsys, deep=deep)
    assert ".dvc: missing: DVC cannot be used here." in [each["what"] for each in found]


def test_weights_of_another_size_are_named_where_dvc_does_not_know_them(project, capsys):
    other = Path("data/experiments/mine/fold_0")
    shutil.copytree(FOLD, other)
    os.truncate(other / "model.safetensors", 3)
    found, _ = examined(capsys)
    assert "model.safetensors: has 3 bytes, expected 7." in only(found)["what"]


def test_a_merge_that_is_not_finished_is_named(project, capsys):
    setup = "git checkout -qb other && echo b > note && git add note && git commit -qm b && git checkout -q - "
    clash = "&& echo c > note && git add note && git commit -qm c && ! git merge -q other"
    assert typed(setup + clash).returncode == 0
    found, _ = examined(capsys)
    assert only(found)["what"] == "git: a merge is not finished: conflicts in note."
    assert typed("git merge --abort").returncode == 0
    assert examined(capsys) == ([], [])


def test_packages_that_differ_from_the_lock_are_named(project, capsys):
    Path("requirements.lock").write_text("numpy==0.1\nno-such-package==1.0\n")
    found, _ = examined(capsys)
    assert [each["severity"] for each in found] == ["error", "warning"]
    assert "not installed: no-such-package" in found[0]["what"]
    assert "numpy" in found[1]["what"]


def test_leftovers_are_counted_and_old_ones_removed(project, capsys):
    kept, left = Path(".sensorium/train/abc"), Path(".sensorium/train/.def.partial")
    young = Path("data/.one.txt.12345678.partial")
    for folder in (kept, left):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(2**20))
    young.write_text("")
    long_ago = time.time() - 86400
    os.utime(left, (long_ago, long_ago))
    capsys.readouterr()
    doctor.run(Paths(project), fix=True)
    shown = capsys.readouterr().out
    assert "1 unfinished trainings have checkpoints, 1.0 MiB." in shown
    assert f"fixed: {left} was removed." in shown
    assert kept.exists()
    assert young.exists()  # its writer may be at work
    assert not left.exists()


def test_an_error_of_a_check_is_a_finding_and_a_bug_is_not(tmp_path):
    def refused(_project):
        yield Finding("note", "first")
        raise DataError("a file: is damaged.", "Type `true`.")

    def broken(_project):
        yield Finding("note", "first")
        raise KeyError("chunk_grid")

    found = list(examine(refused, Project(Paths(tmp_path))))
    assert found == [Finding("note", "first"), Finding("error", "a file: is damaged.", "Type `true`.")]
    with pytest.raises(KeyError, match="chunk_grid"):
        list(examine(broken, Project(Paths(tmp_path))))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dvc.lock", "stages: {settings: 1}\n"),
        ("dvc.lock", "stages: {settings: {outs: 5}}\n"),
        ("dvc.lock", "[" * 100_000),
        ("dvc.yaml", None),
        ("params.yaml", "seed: 2024-99-99\n"),
        ("params.yaml", None),
        (".dvc/config", "[core\n"),
        (".dvc/config", "[core]\n    unknown = 1\n"),
    ],
)
def test_content_of_any_form_is_a_finding_that_names_the_file(project, capsys, name, content):
    """None stands for a folder in the place of the file."""
    path = Path(name)
    if content is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(content.encode())
    found, _ = examined(capsys)
    assert any(name in each["what"] and each["remedy"] for each in found)


def test_a_quick_look_imports_neither_pytorch_nor_mlflow(project):
    program = (
        "import sys; from pathlib import Path; from sensorium.paths import Paths; "
        "from sensorium.commands import doctor; "
        "doctor.run(Paths(Path.cwd())); print(sorted({'torch', 'mlflow', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
