"""What a sweep searches: conf/sweep/<name>.yaml, and the settings that a trial has."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, ValidationError, model_validator

from sensorium.architectures import Section
from sensorium.config import Config, ExperimentConfig, parse
from sensorium.errors import ConfigError

FOLDER = Path("conf") / "sweep"
"""Where the files lie, relative to the project's root."""
_SCALARS = (bool, int, float, str, type(None))
"""What Optuna takes as a choice."""
_ALL_VALUES = 16
"""A range of whole numbers of at most so many is tried out value by value before the sweep."""
_INSIDE = 0.3711
"""Share of a range at which a number that is not whole is tried out."""
_COMBINATIONS = 4096
"""Combinations of values that are tried out, at 0.2 ms each; beyond that, each parameter by itself."""


class Parameter(Section):
    """The values that one setting may take: a range, or choices."""

    low: int | float | None = None
    """Smallest value."""
    high: int | float | None = None
    """Largest value."""
    log: bool = False
    """Whether equal factors, not equal differences, are equally likely."""
    choices: tuple[Any, ...] | None = Field(default=None, min_length=2)
    """Values to choose among, instead of a range; lists as well."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either choices, or low and high")
            if len({json.dumps(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("choices names a value twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"the range from {self.low} to {self.high} is empty; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, not at {self.low}")
        return self

    def distribution(self) -> CategoricalDistribution | IntDistribution | FloatDistribution:
        """In Optuna's words; a range whose ends are whole is one of whole numbers."""
        if self.choices is not None:
            return CategoricalDistribution([_encoded(choice) for choice in self.choices])
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        assert self.low is not None
        assert self.high is not None
        return FloatDistribution(self.low, self.high, log=self.log)

    def listed(self) -> list[Any] | None:
        """All values, one by one; None for a range of real numbers."""
        found = self.distribution()
        if self.choices is not None:
            return list(self.choices)
        return list(range(found.low, found.high + 1)) if isinstance(found, IntDistribution) else None

    def samples(self) -> list[Any]:
        """Values that show whether the setting takes the parameter's."""
        listed, found = self.listed(), self.distribution()
        if isinstance(found, FloatDistribution):
            return [found.low, found.high, found.low + _INSIDE * (found.high - found.low)]
        assert listed is not None
        return listed if self.choices is not None or len(listed) <= _ALL_VALUES else [listed[0], listed[-1]]

    def suited_to(self, present: Any) -> "Parameter":
        """The same range of real numbers where the setting is one, whether or not its ends are whole."""
        if not isinstance(self.distribution(), IntDistribution) or not isinstance(present, float):
            return self
        return self.model_copy(update={"low": float(self.low or 0), "high": float(self.high or 0)})


class Space(Section):
    """A search space, and how it is searched."""

    sampler: Literal["tpe", "gp", "cmaes", "random", "grid"] = "tpe"
    """Optuna's sampler: tree-structured Parzen estimator, Gaussian process, CMA-ES, random, or every combination."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Optuna's pruner: ends a trial whose validation correlation falls behind that of the others."""
    startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials that are drawn at random, and never ended early, before sampler and pruner go by the others."""
    parameters: dict[str, Parameter] = Field(min_length=1)
    """What is searched, by the key of the experiment's settings, such as training.learning_rate."""

    def distributions(self) -> dict[str, Any]:
        """In Optuna's words."""
        return {key: parameter.distribution() for key, parameter in self.parameters.items()}

    def grid(self) -> dict[str, list[Any]]:
        """All values of all parameters, as Optuna's grid takes them."""
        return {key: [_encoded(value) for value in p.listed() or ()] for key, p in self.parameters.items()}

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Values that show whether an experiment takes the whole space."""
        samples = {key: parameter.samples() for key, parameter in self.parameters.items()}
        if math.prod(map(len, samples.values())) <= _COMBINATIONS:
            for chosen in itertools.product(*samples.values()):
                yield dict(zip(samples, chosen, strict=True))
            return
        first = {key: values[0] for key, values in samples.items()}
        for key, values in samples.items():
            for value in values:
                yield {**first, key: value}


def _encoded(choice: Any) -> Any:
    """A choice as Optuna takes it: a list as its JSON text."""
    return choice if isinstance(choice, _SCALARS) else json.dumps(choice)


def settings_of(space: Space, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna chose, as the experiment's settings take it."""
    found = {}
    for key, value in parameters.items():
        choices = space.parameters[key].choices
        found[key] = value if choices is None else next(choice for choice in choices if _encoded(choice) == value)
    return found


def load_space(path: Path, settings: ExperimentConfig) -> Space:
    """Read a space.

    Args:
        path: the file.
        settings: of the experiment that is searched.

    Raises:
        ConfigError: the file is missing or not valid.
    """
    space, present = _read(path), settings.model_dump(mode="json")
    suited = {key: p.suited_to(_look_up(present, key.split("."))) for key, p in space.parameters.items()}
    space = space.model_copy(update={"parameters": suited})
    if space.sampler == "grid":
        for key, parameter in space.parameters.items():
            if parameter.listed() is None:
                raise ConfigError(f"{path}: parameters.{key}: a grid has no ranges.", "List its values as choices.")
    return space


def _read(path: Path) -> Space:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        tree = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))  # YAML 1.2: 1e-3 is a number
    except FileNotFoundError:
        known = ", ".join(sorted(str(FOLDER / file.name) for file in path.parent.glob("*.yaml")))
        raise ConfigError(f"{path}: the file does not exist.", f"Name one of: {known}." if known else "") from None
    except (YAMLError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path}: not valid YAML: {fault}", "Correct the line named above.") from fault
    try:
        return Space.model_validate(tree)
    except ValidationError as faults:
        lines = [f"{path}: {_explain(dict(fault))}" for fault in faults.errors()]
        raise ConfigError(
            "\n".join(lines), "docs/how-to/sweeps.md explains the file; conf/sweep/ has examples."
        ) from faults


def _explain(fault: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section = Parameter if fault["loc"][0] == "parameters" else Space
        return f"{key}: unknown key. Known keys here: {', '.join(section.model_fields)}."
    message = str(fault["msg"]).removeprefix("Value error, ")
    found = f", found {fault['input']!r}" if isinstance(fault["input"], (str, int, float)) else ""
    return f"{key}: {message}{found}." if key else f"{message}."


def _look_up(tree: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def candidates(space: Space, config: Config, experiment: str, source: str) -> Iterator[Config]:
    """The settings of trials all over the space.

    Raises:
        ConfigError: the experiment's settings refuse one.
    """
    return (apply(config, experiment, chosen, source) for chosen in space.combinations())


def apply(config: Config, experiment: str, chosen: Mapping[str, Any], source: str) -> Config:
    """The settings of a trial.

    Args:
        config: the settings in force.
        experiment: what is searched.
        chosen: value by key of the experiment's settings.
        source: file name for messages.

    Raises:
        ConfigError: the experiment's settings refuse a value, or a combination of values.
    """
    tree = config.model_dump(mode="json", exclude={"pipeline"})
    for key, value in chosen.items():
        *sections, last = key.split(".")
        section = tree["experiments"][experiment]
        for part in sections:
            if not isinstance(section.get(part), dict):
                section[part] = {}
            section = section[part]
        section[last] = value
    values = ", ".join(f"{key}={value}" for key, value in chosen.items())
    return parse(tree, f"{source} ({values})")
