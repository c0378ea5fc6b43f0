"""Mappings: where a laboratory's NWB files hold what a raw mouse needs, such as conf/nwb/lab.yaml."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from sensorium.architectures import Section
from sensorium.errors import ConfigError, DataError
from sensorium.files import load_yaml
from sensorium.mice import Tier

MAP_REMEDY = "Correct the mapping (`null` where there is no such signal); `h5ls -r FILE` lists what the file holds."


class MovieMap(Section):
    """Where the movie is."""

    path: str
    """An ImageSeries or OpticalSeries, an IndexSeries, or a table of presentations."""
    templates: str | None = None
    """The images that a table or an IndexSeries refers to: an ImageSeries or Images; null follows the series' link."""
    frame: str | None = None
    """Column of the table with the index of the image; null where `path` is no table."""
    rate: PositiveFloat | None = None
    """Images per second that a row of the table shows from `frame` on until it stops; null shows one image per row."""
    blank: float | None = None
    """Grey level of an index without image, such as -1 for a blank screen; null refuses it."""


class SignalMap(Section):
    """Where a behavioural signal is."""

    path: str
    """A TimeSeries, such as a SpatialSeries or an EllipseSeries."""
    dataset: str = "data"
    """Its dataset with the values; `area` of an EllipseSeries for example."""
    area: bool = False
    """Whether the values are areas, converted to diameters of circles."""
    scale: float = 1.0
    """Factor to the unit of the mice that the model was trained on, such as 100 from m/s to cm/s."""


class TrialsMap(Section):
    """Which intervals are trials."""

    table: str = "intervals/trials"
    """A table, or a series whose time stamps begin the rows."""
    start: str = "start_time"
    """Column with the times at which rows begin; `timestamps` of a series."""
    stop: str | None = "stop_time"
    """Column with the times at which rows end; null where each lasts as long as most do."""
    group: str | None = None
    """Column whose consecutive equal values make one trial, for tables with a row per frame."""
    restart: str | None = None
    """Column that rises within a trial, such as the index of the image; a trial ends where it falls."""
    where: dict[str, str] = Field(default_factory=dict)
    """Rows that count, by column and value, such as `{stimulus_type: natural_scenes}`; all by default."""
    longest: PositiveFloat | None = None
    """Longest trial, seconds: longer ones are cut into equal parts."""

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if self.group is not None and self.restart is not None:
            raise ValueError("give group or restart, not both")
        return self


class TierMap(Section):
    """Which trial has which tier; `train` where nothing below applies."""

    column: str | None = None
    """Column with the tier, or with a value of `values`."""
    values: dict[str, Tier] = Field(default_factory=dict)
    """Tier by value of the column."""
    repeated: Tier | None = None
    """Tier of trials whose value of the column occurs more than once, such as an identifier of the clip."""
    last: dict[Tier, float] = Field(default_factory=dict)
    """Share (0 to 1) of the trials at the end of the session, by tier, in their order."""


class NwbMap(Section):
    """Where a laboratory's files hold what a raw mouse needs."""

    frame_shape: tuple[PositiveInt, PositiveInt] | None = (36, 64)
    """Rows and columns of the frames that are written, pixels; null takes the file's."""
    max_gap: PositiveFloat = 0.5
    """Longest time between two valid samples that is bridged, seconds."""
    on_gap: Literal["none", "refuse"] = "none"
    """What a longer gap does: the trial gets the tier `none`, or the file is refused."""
    movie: MovieMap
    responses: list[str] = Field(min_length=1)
    """RoiResponseSeries, one per imaging plane: fluorescence, dF/F or deconvolved events; `*` in the last name
    stands for any letters, as in every path."""
    running: SignalMap | None = None
    """Running speed; null gives 0."""
    pupil_size: SignalMap | None = None
    """Pupil dilation; null gives 1."""
    pupil_position: SignalMap | None = None
    """Pupil centre (T, 2); null gives 0."""
    trials: TrialsMap = TrialsMap()
    tier: TierMap = TierMap()
    positions: list[str] | Literal["image_mask", "pixel_mask"] | None = None
    """Columns x, y and z of the PlaneSegmentation, the centroids of its masks in pixels, or null for zeros."""
    unit_ids: str | None = None
    """Column of the PlaneSegmentation with the neurons' identifiers; null numbers them from 0."""


def read_map(path: Path) -> NwbMap:
    """Read a mapping.

    Raises:
        ConfigError: it cannot be read, or has unknown, missing or wrong keys.
    """
    try:
        return NwbMap.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(
            f"{path}: not readable as YAML ({fault}).", "Give a mapping such as conf/nwb/lab.yaml."
        ) from None
    except ValidationError as fault:
        found = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'content'}: {one['msg']}" for one in fault.errors())
        raise ConfigError(f"{path}: {found}.", "The keys are described in docs/how-to/nwb.md.") from None


def assign_tiers(values: Sequence[str], rule: TierMap) -> list[str]:
    """Tier of every trial.

    Args:
        values: value of the tier's column, by trial.
        rule: what they mean.

    Raises:
        DataError: a value has no tier.
    """
    tiers, counts = ["train"] * len(values), Counter(values)
    for trial, value in enumerate(values):
        if rule.repeated is not None:
            tiers[trial] = rule.repeated if counts[value] > 1 else "train"
        elif rule.column is not None:
            if value not in rule.values:
                raise DataError(f"trial {trial}: no tier for {rule.column} {value!r}.", "Add it to tier.values.")
            tiers[trial] = rule.values[value]
    end = len(tiers)
    for tier, share in reversed(rule.last.items()):
        first = max(0, end - round(share * len(tiers)))
        tiers[first:end] = [tier] * (end - first)
        end = first
    return tiers
