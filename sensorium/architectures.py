"""The registry of architectures, the one place that knows which models there are, and the base of all settings.

An architecture is a class of settings and a `sensorium.model.architecture.Model` that is built from them. Both are
named here as text and imported when they are needed: the settings when an experiment uses them, the model when it is
built. So reading params.yaml, which every command does, imports no architecture that is not used, and no torch where
the settings lie in a module of their own. docs/how-to/architectures.md shows how to add one.
"""

import pkgutil
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails


class Architecture(NamedTuple):
    """Where the parts of an architecture are, as `module:Class` below `sensorium.model`."""

    settings: str
    """Subclass of `ModelConfig`."""
    model: str
    """Subclass of `sensorium.model.architecture.Model`."""


ARCHITECTURES = {
    "baseline": Architecture("baseline_config:BaselineConfig", "baseline:Baseline"),
    "dwiseneuro": Architecture("dwiseneuro_config:DwiseNeuroConfig", "dwiseneuro:DwiseNeuro"),
}
"""Every architecture, by the name that `model.architecture` selects."""
_ORIGINAL = "dwiseneuro"  # architecture of settings and trained folds from before there was a choice


Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """Base of every section: frozen, closed, and documented field by field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class ModelConfig(Section):
    """A model: a union of the settings of all architectures, discriminated by `architecture`.

    Validating a mapping as a `ModelConfig` gives the settings class of the architecture that it names.
    """

    architecture: str
    """Name of the architecture; each settings class narrows it to its own, a `Literal`."""
    canvas: tuple[Positive, Positive]
    """Height and width to which frames are zero-padded, pixels."""

    @model_validator(mode="wrap")
    @classmethod
    def _discriminate(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> "ModelConfig":
        if cls is not ModelConfig or not isinstance(value, Mapping):
            return handler(value)
        return settings_class(value).model_validate(value)


def settings_class(section: Mapping[str, Any]) -> type[ModelConfig]:
    """The settings class of the architecture that a section names; DwiseNeuro's where it names none.

    Raises:
        ValidationError: there is no such architecture.
    """
    name = section.get("architecture", _ORIGINAL)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = " or ".join(repr(choice) for choice in ARCHITECTURES)
        fault = InitErrorDetails(type="literal_error", loc=("architecture",), input=name, ctx={"expected": known})
        raise ValidationError.from_exception_data(ModelConfig.__name__, [fault])
    found: type[ModelConfig] = resolve(ARCHITECTURES[name].settings)
    return found


def resolve(name: str) -> Any:
    """Import what an `Architecture` names."""
    return pkgutil.resolve_name(f"sensorium.model.{name}")
