"""Settings: what is accepted, and how a mistake is reported."""

from pathlib import Path

import pytest
from dvc.utils.hydra import compose_and_dump
from tiny import preset_tree

from sensorium import config
from sensorium.errors import ConfigError
from sensorium.evaluation.sources import DERIVED
from sensorium.experiments import compose
from sensorium.paths import find_root

ROOT = Path(__file__).parents[2]
PRESETS = sorted(file.stem for file in (ROOT / "conf" / "preset").glob("*.yaml"))


@pytest.fixture
def demo():
    return preset_tree("demo")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid(preset):
    settings = config.parse(preset_tree(preset), preset)
    assert settings.dataset.mice


def test_params_yaml_is_the_demo_preset_as_dvc_composes_it(tmp_path):
    composed = tmp_path / "params.yaml"
    compose_and_dump(composed, str(ROOT / "conf"), None, "config", str(ROOT / "conf"), ["preset=demo"])
    assert (ROOT / "params.yaml").read_text() == composed.read_text() == compose(ROOT, "demo")


def test_competition_preset_is_the_published_recipe():
    settings = config.parse(preset_tree("competition"), "competition")
    assert len(settings.dataset.mice) == 10
    assert list(settings.folds.train.values()) == list(range(7))
    teacher = settings.experiment("true_batch_001")
    student = settings.experiment("distillation_001")
    assert (teacher.model.expansion, student.model.expansion) == (7, 6)
    assert teacher.training.learning_rate == pytest.approx(3e-4 * teacher.training.batch_size / 4)
    assert student.distillation is not None
    assert student.distillation.ratio == 0.36
    assert settings.window.width == 31


@pytest.mark.parametrize("name", DERIVED)
def test_no_experiment_is_called_like_another_source(demo, name):
    demo["experiments"][name] = demo["experiments"]["true_batch_001"]
    with pytest.raises(ConfigError, match=f"'{name}' means something else in the tables of scores"):
        config.parse(demo, "params.yaml")


def test_settings_are_frozen(demo):
    settings = config.parse(demo, "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(sead=1), ["sead", "unknown key", "'seed'"]),
        (lambda t: t.update(seed="x"), ["seed", "integer", "'x'"]),
        (lambda t: t["folds"].update(count=1), ["folds.count", "greater than or equal to 2"]),
        (lambda t: t["folds"]["train"].update(fold_9=9), ["fold 9 is out of range"]),
        (lambda t: t["folds"]["train"].update(first=0), ["fold 0 must be named fold_0"]),
        (lambda t: t["dataset"].update(get="steal"), ["dataset.get", "'synthesize', 'download' or 'verify'"]),
        (lambda t: t["dataset"]["mice"].update(x="middle"), ["dataset.mice.x", "'new' or 'old'"]),
        (
            lambda t: t["dataset"]["mice"].update({"my mouse": "new"}),
            ["dataset: mice: 'my mouse' cannot name a folder"],
        ),
        (
            lambda t: t["dataset"]["mice"].update({"../mouse": "new"}),
            ["dataset: mice: '../mouse' cannot name a folder"],
        ),
        (lambda t: t["dataset"]["mice"].update({"-m": "new"}), ["begin with a letter or digit"]),
        (lambda t: t["experiments"]["true_batch_001"]["training"].update(lr=1), ["training.lr", "unknown key"]),
        (
            lambda t: t["experiments"]["true_batch_001"]["model"].update(strides=[1]),
            ["experiments.true_batch_001.model", "one entry per block"],
        ),
        (lambda t: t["registry"].update(teacher="distillation_001"), ["distillation_001 is both teacher and student"]),
        (
            lambda t: t["experiments"].update(dict.fromkeys(("Slow", "slow"), t["experiments"]["true_batch_001"])),
            ["Slow and slow differ in upper and lower case alone"],
        ),
        (
            lambda t: t["experiments"]["distillation_001"]["distillation"].update(teacher="nobody"),
            ["distillation_001.distillation.teacher", "'nobody' is no experiment"],
        ),
        (lambda t: t["registry"].update(student="nobody"), ["registry.student", "'nobody'"]),
        (lambda t: t.pop("synthetic"), ["no section synthetic"]),
        (lambda t: t["synthetic"]["neurons"].clear(), ["synthetic.neurons has no entry for dynamic"]),
        (lambda t: t["synthetic"].update(valid_frames=[10, 5]), ["valid_frames must rise"]),
        (lambda t: t.pop("window"), ["window", "Field required"]),
    ],
)
def test_a_mistake_names_the_key_and_the_remedy(demo, change, words):
    change(demo)
    with pytest.raises(ConfigError) as fault:
        config.parse(demo, "params.yaml")
    for word in ["params.yaml", *words]:
        assert word in str(fault.value)
    assert fault.value.remedy


def test_all_mistakes_are_told_at_once(demo):
    demo["seed"] = -1
    demo["folds"]["grouping"] = "loose"
    with pytest.raises(ConfigError) as fault:
        config.parse(demo, "params.yaml")
    assert "seed" in str(fault.value)
    assert "folds.grouping" in str(fault.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "seed: [1\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        config.load(tmp_path / "params.yaml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "params.yaml")


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="competition, demo"):
        compose(ROOT, "nothing")


def test_a_project_without_its_settings_says_how_to_get_them_back(tmp_path):
    (tmp_path / "dvc.yaml").touch()
    below = tmp_path / "data"
    below.mkdir()
    with pytest.raises(ConfigError, match=r"params\.yaml: missing(.|\n)*git checkout -- params\.yaml"):
        find_root(below)
