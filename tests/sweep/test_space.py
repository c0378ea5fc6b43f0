"""What a file of conf/sweep/ may say."""

import pytest
import yaml
from tiny import ROOT, make_config, preset_tree

from sensorium.config import parse
from sensorium.errors import ConfigError
from sensorium.sweep.space import apply, candidates, load_space, settings_of

EXPERIMENT = "true_batch_001"
RATE = "training.learning_rate"


@pytest.fixture
def check(tmp_path):
    """Check a space against the tiny experiment, as the verb does."""
    config = make_config()

    def load(text):
        path = tmp_path / "space.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        space = load_space(path, config.experiment(EXPERIMENT))
        for _ in candidates(space, config, EXPERIMENT, "space.yaml"):
            pass
        return space

    return load


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"parameters": {}}, "parameters: Dictionary should have at least 1 item"),
        ({"parametres": {}}, "parametres: unknown key. Known keys here: sampler, pruner"),
        ({"sampler": "genetic", "parameters": {RATE: {"low": 0.1, "high": 1}}}, "sampler: Input should be 'tpe'"),
        ({"parameters": {RATE: {"low": 0.1, "hi": 1}}}, "learning_rate.hi: unknown key. Known keys here: low, high"),
        ({"parameters": {RATE: {"low": 0.1}}}, "give low and high, or choices"),
        ({"parameters": {RATE: {"low": 1, "high": 1}}}, "the range from 1 to 1 is empty"),
        ({"parameters": {RATE: {"low": 0, "high": 1, "log": True}}}, "a logarithmic range begins above 0"),
        ({"parameters": {RATE: {"choices": [0.1]}}}, "at least 2 items"),
        ({"parameters": {RATE: {"choices": [0.1, 0.1]}}}, "choices names a value twice"),
        ({"parameters": {RATE: {"choices": [0.1, 0.2], "low": 0}}}, "give either choices, or low and high"),
        ({"parameters": {RATE: {"low": -0.1, "high": 1}}}, "learning_rate: Input should be greater than 0, found -0.1"),
        ({"parameters": {"training.learnig_rate": {"low": 0.1, "high": 1}}}, "Did you mean 'learning_rate'"),
        ({"parameters": {"model.expansion": {"low": 1.5, "high": 4}}}, "model.expansion: Input should be a valid int"),
        ({"parameters": {"model.cortex_groups": {"low": 1, "high": 5}}}, "cortex_groups must divide"),
        ({"parameters": {"distillation.ratio": {"low": 0.1, "high": 0.5}}}, "distillation.teacher: Field required"),
        ({"sampler": "grid", "parameters": {RATE: {"low": 0.1, "high": 1.0}}}, "a grid has no ranges"),
        ("parameters: [", "not valid YAML"),
    ],
)
def test_a_bad_space_is_refused_before_anything_is_trained(check, space, words):
    with pytest.raises(ConfigError) as refused:
        check(space)
    assert words in str(refused.value)


def test_a_missing_file_names_those_that_are_there(tmp_path):
    (tmp_path / "wide.yaml").touch()
    with pytest.raises(ConfigError, match=r"narrow\.yaml: the file does not exist\.\nName one of: .*wide\.yaml"):
        load_space(tmp_path / "narrow.yaml", make_config().experiment(EXPERIMENT))


def test_numbers_may_be_written_as_people_write_them(check):
    space = check("parameters: {training.learning_rate: {low: 1e-3, high: 1, log: true}}")
    distribution = space.distributions()[RATE]
    assert (distribution.low, distribution.high, distribution.log) == (0.001, 1.0, True)


def test_a_real_setting_is_searched_between_whole_ends(check):
    space = check(
        {"parameters": {"training.weight_decay": {"low": 0, "high": 1}, "model.expansion": {"low": 2, "high": 4}}}
    )
    kinds = {key: type(kind).__name__ for key, kind in space.distributions().items()}
    assert kinds == {"training.weight_decay": "FloatDistribution", "model.expansion": "IntDistribution"}


def test_lists_may_be_chosen(check):
    space = check({"parameters": {"model.cortex_features": {"choices": [[8], [8, 16]]}}})
    chosen = settings_of(space, {"model.cortex_features": "[8, 16]"})
    config = apply(make_config(), EXPERIMENT, chosen, "space.yaml")
    assert config.experiment(EXPERIMENT).model.cortex_features == (8, 16)


def test_a_trial_changes_its_own_experiment_alone():
    config = make_config()
    changed = apply(config, EXPERIMENT, {RATE: 0.5}, "space.yaml")
    assert changed.experiment(EXPERIMENT).training.learning_rate == 0.5
    assert changed.experiment("distillation_001") == config.experiment("distillation_001")


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_space_suits_the_demonstration(path):
    config = parse(preset_tree("demo"), "demo")
    space = load_space(path, config.experiment(EXPERIMENT))
    assert len(list(candidates(space, config, EXPERIMENT, str(path)))) > 1
