"""Every command that the project ships is one that the command line understands."""

import errno
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer
from dvc.repo import Repo
from tiny import OPEN, preset_tree

from sensorium.cli import main
from sensorium.cli.app import app
from sensorium.cli.verbs import RENAMED, LazyCommand
from sensorium.commands.options import select_folds
from sensorium.errors import ConfigError
from sensorium.experiments import compose, known_experiments

ROOT = Path(__file__).parents[2]
PRESETS = sorted(file.stem for file in (ROOT / "conf" / "preset").glob("*.yaml"))


def parse(line):
    """Parse a `sensorium` command line as the program would, without running the verb."""
    program, verb, *arguments = shlex.split(line, comments=True)
    assert program == "sensorium", line
    group = typer.main.get_command(app)
    command = group.get_command(group.make_context("sensorium", ["--help"], resilient_parsing=True), verb)
    assert command is not None, f"no verb {verb!r}: {line}"
    while hasattr(command, "commands"):
        verb, *arguments = arguments
        assert verb in command.commands, line
        command = command.commands[verb]
    with command.make_context(verb, arguments) as context:
        return context.params


@pytest.fixture(params=PRESETS)
def stages(request, tmp_path):
    """The stages of dvc.yaml under a preset."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(compose(ROOT, request.param, OPEN.get(request.param, ())))
    with Repo.init(tmp_path, no_scm=True) as repo:
        yield {stage.name: stage for stage in repo.index.stages}


def test_every_stage_is_a_command(stages):
    for stage in stages.values():
        parse(stage.cmd)


def test_the_graph_follows_the_preset(stages, request):
    preset = preset_tree(request.node.callspec.params["stages"])
    mice, experiments = list(preset["dataset"]["mice"]), list(preset["experiments"])
    trainings = [f"{name}-{fold}" for name in experiments for fold in preset["folds"]["train"].values()]
    for verb, keys in (("ingest", mice), ("train", trainings), ("out_of_fold", experiments)):
        assert {name for name in stages if name.startswith(f"{verb}@")} == {f"{verb}@{key}" for key in keys}


def test_a_training_waits_for_its_teacher_or_start_alone(stages):
    sources = {
        "distillation_001": "true_batch_001",
        "transfer_001": "distillation_001",
        "finetune_001": "transfer_001",
    }
    for name, stage in stages.items():
        if name.startswith("train@"):
            needed = {path for path in (dep.def_path for dep in stage.deps) if path.startswith("data/experiments")}
            experiment, _, fold = name.removeprefix("train@").rpartition("-")
            source = sources.get(experiment)
            assert needed == ({f"data/experiments/{source}/fold_{fold}"} if source else set())


def test_dvc_yaml_names_no_experiment():
    text = (ROOT / "dvc.yaml").read_text()
    for experiment in known_experiments(ROOT):
        assert experiment not in text


def test_competition_lists_ten_mice_and_seven_trainings_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(compose(ROOT, "competition"))
    with Repo.init(tmp_path, no_scm=True) as repo:
        names = [stage.name for stage in repo.reproduce(dry=True, force=True)]
    experiments = preset_tree("competition")["experiments"]
    assert sum(name.startswith("train@") for name in names) == 7 * len(experiments)
    assert sum(name.startswith("ingest@") for name in names) == 10


def test_no_stage_owns_recordings(stages):
    """DVC removes a stage's outputs before it runs the stage."""
    assert not [out for stage in stages.values() for out in stage.outs if "sensorium_all_2023" in out.def_path]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def documented_commands(text):
    """Lines of code blocks, fenced or indented, that type a verb; what a reader fills in stays as it is."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    blocks = [block.replace("\\\n", " ") for block in (*fenced, *indented)]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [re.sub(r"<[^>]*>", "x", line) for line in lines if line.startswith("sensorium ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_documented_command_parses(document):
    text = document.read_text(encoding="utf-8")
    commands = documented_commands(text)
    typed = re.findall(r"^ *(?:\$ )?sensorium [a-z]+", text, flags=re.MULTILINE)
    assert len(commands) >= len(typed), "a command stands outside of the blocks that are looked at"
    for line in commands:
        parse(line)


def test_every_path_that_the_readme_points_at_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:sensorium|conf|docs)/[^`*<]*)`", text) + re.findall(r"\]\(((?!http)[^)#]+)", text)
    assert len(named) > 15
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_other_scored_frames_train_nothing(stages):
    """Scores are worked out from predictions; a training has no part in which frames they look at."""
    for name, stage in stages.items():
        if name.startswith("train@"):
            sections = {key for dependency in stage.deps for key in getattr(dependency, "params", [])}
            assert "window" in sections
            assert not {key for key in sections if key.startswith("evaluation")}


def run(arguments, monkeypatch, folder=ROOT):
    monkeypatch.setattr("sys.argv", ["sensorium", *shlex.split(arguments)])
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train -e nobody", ["'nobody'", "true_batch_001"]),
        ("train -e true_batch_001 -f 99", ["fold '99'", "0 to"]),
        ("train -e true_batch_001 -f x", ["fold 'x'"]),
        ("ingest -m mickey", ["'mickey'", "dynamic29515"]),
        ("predict -e true_batch_001 -s train", ["split 'train'", "live_test_main"]),
        ("ensemble -e true_batch_001,nobody -s live_test_main", ["'nobody'"]),
        ("submission -e true_batch_001 -t side", ["track 'side'", "main, bonus"]),
        ("config --preset nothing", ["'nothing'", "competition"]),
    ],
)
def test_a_bad_option_is_one_clear_error(arguments, words, monkeypatch, capsys):
    assert run(arguments, monkeypatch) == 2
    message = capsys.readouterr().err
    assert message.startswith("Error: ")
    assert "Traceback" not in message
    for word in words:
        assert word in message


@pytest.fixture
def project(tmp_path):
    """A folder with nothing but the settings."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def test_a_verb_says_itself_what_to_do_about_a_file_that_cannot_be_read():
    """Typer would only say that it is not readable; the tests run as root too, who may read all."""
    command = LazyCommand("ensemble", "stages.ensemble:run", "Prediction").loaded
    (pin,) = [parameter for parameter in command.params if parameter.name == "pin"]
    assert pin.type_descriptor.parameter_info.readable is False


@pytest.mark.parametrize(
    "arguments", ["verify --quick --json /proc/nope/x.json", "weights export /proc/nope -e true_batch_001"]
)
def test_a_place_that_cannot_be_written_is_one_clear_error(arguments, project, monkeypatch, capsys):
    assert run(arguments, monkeypatch, project) == 1
    message = capsys.readouterr().err
    assert "Error: /proc/nope: No such file or directory.\nRestore the file" in message
    assert "Traceback" not in message


def refuse(monkeypatch, fault):
    """Let a verb end with a fault."""

    def end():
        raise fault

    monkeypatch.setattr("sensorium.stages.folds.run", end)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x: No space left on device.\nFree space"),
        (
            OSError(errno.EROFS, "Read-only file system", "/data/x"),
            "/data/x: Read-only file system.\nThat disk can only",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a", None, "/b"),
            "/a -> /b: Permission denied.\nGive your",
        ),
        (OSError("8192 requested and 0 written"), "Error: 8192 requested and 0 written.\nCorrect what"),
        (TimeoutError(), "Error: TimeoutError.\nCorrect what"),
    ],
)
def test_a_disk_that_refuses_is_one_clear_error(fault, words, project, monkeypatch, capsys):
    refuse(monkeypatch, fault)
    assert run("folds", monkeypatch, project) == 1
    message = capsys.readouterr().err
    assert words in message
    assert "SENSORIUM_TRACEBACK=1 shows where it happened" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("folds", "Got unexpected extra argument(s) (https://me:***@host/x)"),
        ("promote --margin 1", "Got unexpected extra argument(s) (https://me:***@host/x)"),
        ("weights", "No such command 'https://me:***@host/x'."),
        ("--no-such-option", "No such option: --no-such-option"),
        ("", "No such command 'https://me:***@host/x'."),
    ],
)
def test_wrong_usage_is_one_clear_error_without_credentials(arguments, problem, project, monkeypatch, capsys):
    assert run(f"{arguments} https://me:hidden@host/x", monkeypatch, project) == 2
    error, usage, hint = capsys.readouterr().err.splitlines()
    assert error == f"Error: {problem}"
    assert usage.startswith("Usage: sensorium ")
    assert hint.startswith("Try `sensorium ")


@pytest.mark.parametrize("arguments", ["", "insilico"])
def test_a_group_without_a_verb_prints_its_help_alone(arguments, monkeypatch, capsys):
    assert run(arguments, monkeypatch) == 2
    shown = capsys.readouterr()
    assert "Show this message and exit." in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (typer.Exit(3), 3, ""),
        (typer.Abort(), 1, "Aborted.\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
        (SystemExit(4), 4, ""),
    ],
)
def test_other_ends_of_a_verb_keep_their_exit_codes(end, code, words, project, monkeypatch, capsys):
    refuse(monkeypatch, end)
    monkeypatch.setattr("sys.stdout", sys.stdout)  # a broken pipe replaces both
    monkeypatch.setattr("sys.stderr", sys.stderr)
    assert run("folds", monkeypatch, project) == code
    assert capsys.readouterr().err == words


def test_faults_of_our_own_keep_their_traceback(project, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sensorium", "folds"])
    monkeypatch.chdir(project)
    refuse(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main()
    refuse(monkeypatch, OSError("perhaps ours"))
    monkeypatch.setenv("SENSORIUM_TRACEBACK", "1")
    with pytest.raises(OSError, match="perhaps ours"):
        main()


def interrupt_in_a_class():
    """What Python 3.11 makes of a Ctrl-C while a class is made, as matplotlib's are."""
    raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()


def test_an_interrupt_in_a_class_in_the_making_is_no_fault(project, monkeypatch, capsys):
    monkeypatch.setattr("sensorium.stages.folds.run", interrupt_in_a_class)
    assert run("folds", monkeypatch, project) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_before_the_command_is_there_is_no_fault(monkeypatch, wrapped):
    class Interrupting:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "sensorium.cli.app" and wrapped:
                interrupt_in_a_class()
            elif name == "sensorium.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "sensorium.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_settings_that_are_not_utf8_are_one_clear_error(project, monkeypatch, capsys):
    (project / "params.yaml").write_bytes("# Fr\u00e4nkel\n".encode() + "# M\u00fcller\n".encode("latin-1"))
    assert run("folds", monkeypatch, project) == 2
    message = capsys.readouterr().err
    assert "params.yaml: line 2 is not UTF-8 text.\nSave the file as UTF-8." in message
    assert "Traceback" not in message


def test_outside_a_project_the_command_says_so(monkeypatch, capsys, tmp_path):
    assert run("folds", monkeypatch, tmp_path) == 2
    assert "no params.yaml" in capsys.readouterr().err


def test_an_unknown_key_stops_every_verb(monkeypatch, capsys, tmp_path):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("seed:", "sead:", 1))
    assert run("folds", monkeypatch, tmp_path) == 2
    assert "sead: unknown key. Did you mean 'seed'?" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ("abc", "not a whole number"),
        ("1.5", "not a whole number"),
        ("", "not a whole number"),
        ("-1", "out of range"),
        ("7", "out of range"),
    ],
)
def test_a_fold_that_is_none_is_refused(tiny_config, fold, message):
    with pytest.raises(ConfigError, match=rf"fold {fold!r}: {message}"):
        select_folds(tiny_config, fold)


@pytest.mark.parametrize(("former", "present"), RENAMED.items())
def test_former_names_of_verbs_work_with_a_warning(former, present, project, monkeypatch, capsys, caplog):
    assert run(f"{former} --help", monkeypatch, project) == 0
    words = capsys.readouterr().out
    assert f"sensorium {former}: renamed, type `sensorium {present}`." in caplog.text
    assert run(f"{present} --help", monkeypatch, project) == 0
    assert capsys.readouterr().out.splitlines()[2:] == words.splitlines()[2:]
    assert run("--help", monkeypatch, project) == 0
    assert f"│ {former} " not in capsys.readouterr().out
