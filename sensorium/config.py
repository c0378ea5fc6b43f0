"""The one typed tree of settings, built once from params.yaml.

Data, model, inference and submissions receive their own sections; what assembles, records or registers a whole
experiment receives the tree. Sections are frozen; unknown keys, wrong types and contradictions are refused with the
key, the value and the remedy. The published hyper-parameters
are in conf/experiment/ and conf/scale/full.yaml, what the demonstration makes smaller in conf/scale/small.yaml.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from sensorium.architectures import Fraction, ModelConfig, Positive, Section, settings_class
from sensorium.errors import ConfigError
from sensorium.files import load_yaml
from sensorium.mice import MouseSet
from sensorium.paths import PARAMS_FILE
from sensorium.pipeline import PipelineConfig, pipeline

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
"""Arithmetic, in Lightning Fabric's words: float32; fp16 with loss scaling; bfloat16."""
Storage = Literal["float32", "float16"]
"""Type of predictions on disk."""
MOUSE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a folder, a stage of DVC and an argument can all be called."""
EXPERIMENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
EXPERIMENT_RULE = "use letters, digits, '_' and '-', at most 64, and begin with a letter"
"""What a folder, a stage of DVC, a key of params.yaml and an argument can all be called."""
TAKEN_NAMES = ("all", "ceiling", "ensemble", "equal_weights", "pair")
"""What tables of scores call something else than an experiment."""
_LONGEST_NAME = 220
"""Characters of a folder's name, leaving room in the 255 bytes of a file system for what is put around it."""


def _is_none(value: object) -> bool:
    """Whether a key is left out of settings on record: they stay as they were before the key existed."""
    return value is None


def _is_float32(value: object) -> bool:
    """Likewise for the type of predictions on disk."""
    return value == "float32"


class DatasetConfig(Section):
    """Where the raw recordings come from."""

    raw: str
    """Folder of the raw mice, absolute or relative to the project's root."""
    get: Literal["synthesize", "download", "verify"]
    """Command that provides a missing mouse; `verify` expects it to be there."""
    mice: dict[str, MouseSet] = Field(min_length=1)
    """Mice in the order of the model's readouts, each with its set; a mouse's name is that of its folder."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in self.mice:
            if not MOUSE_NAME.fullmatch(name):
                raise ValueError(
                    f"mice: {name!r} cannot name a folder, a stage and an argument alike; use letters, digits, '.', "
                    "'_' and '-', and begin with a letter or digit"
                )
        return self


class SyntheticConfig(Section):
    """The simulated recordings of `sensorium synthesize`."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Source of all their randomness, apart from the trainings'."""
    frame_height: Positive
    """Rows of a frame, pixels; 36 in the competition."""
    frame_width: Positive
    """Columns of a frame, pixels; 64 in the competition."""
    padded_frames: Positive
    """Length of every file's time axis, frames; 324 in the competition."""
    valid_frames: tuple[Positive, Positive]
    """Shortest and longest trial, frames; the rest of the time axis is NaN."""
    neurons: dict[str, Positive]
    """Number of neurons, by mouse."""
    train_trials: Positive
    """Training trials per mouse; 350 in the competition."""
    repeated_trials: Positive
    """Trials of every other tier per mouse; 60 in the competition."""
    repeats: Positive
    """How often a video of those tiers is shown; 7 to 10 in the competition."""
    unusable_trials: Annotated[int, Field(ge=0)]
    """Trials of the tier `none`, for old mice only."""
    shared_videos: Annotated[int, Field(ge=0)]
    """Training videos that every mouse sees."""
    noise_shape: Annotated[float, Field(gt=0)]
    """Shape of the gamma noise on the rate; larger is less noisy, 1 has a coefficient of variation of 1."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        shortest, longest = self.valid_frames
        if not shortest <= longest <= self.padded_frames:
            raise ValueError("valid_frames must rise and not exceed padded_frames")
        if self.shared_videos > self.train_trials:
            raise ValueError("shared_videos must not exceed train_trials")
        return self


class FoldsConfig(Section):
    """Group folds over the labelled trials."""

    count: Annotated[int, Field(ge=2)]
    """Number of folds; a trial's fold is its video's hash modulo this."""
    grouping: Literal["exact", "near"]
    """`exact`: equal hashes share a fold, as published. `near`: near-identical videos do as well."""
    train: dict[str, Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Folds that the pipeline trains, by stage name: `fold_<k>: <k>`."""

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        for name, fold in self.train.items():
            if name != f"fold_{fold}":
                raise ValueError(f"train.{name}: fold {fold} must be named fold_{fold}")
            if fold >= self.count:
                raise ValueError(f"train.{name}: fold {fold} is out of range, count is {self.count}")
        return self


class WindowConfig(Section):
    """The stretch of frames that the model sees at once."""

    frames: Positive
    """Frames in the model's input; 16 as published."""
    step: Positive
    """Distance between them, frames of the recording; 2 as published."""

    @property
    def width(self) -> int:
        """Frames of the recording from the first to the last of the window, both included."""
        return (self.frames - 1) * self.step + 1

    @property
    def shortest_trial(self) -> int:
        """Fewest frames of a trial at which every frame is covered: the window in `step` positions."""
        return self.width + self.step - 1


class CutMixConfig(Section):
    """CutMix between two windows of one mouse (arXiv:1905.04899)."""

    alpha: Annotated[float, Field(gt=0)]
    """Parameter of the Beta(alpha, alpha) distribution of the kept area."""
    probability: Annotated[float, Field(ge=0, le=1)]
    """Share of samples that are mixed."""


class LearningRateScale(Section):
    """Learning rate of each part of the model over that of the schedule."""

    core: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the core's learning rate."""
    cortex: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the cortex's learning rate."""
    readouts: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the readouts' learning rate."""


class TrainingConfig(Section):
    """The recipe of one experiment."""

    samples_per_epoch: Positive
    """Windows per epoch, an equal share per mouse; 72,000 as published."""
    batch_size: Positive
    """Windows per optimizer step, over all devices; 32 as published."""
    iter_size: Positive
    """Chunks into which a batch is split to save memory (gradient accumulation)."""
    warmup_epochs: Annotated[int, Field(ge=0)]
    """Epochs of linear rise of the learning rate from 0."""
    cosine_epochs: Positive
    """Epochs of decay after the rise."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Highest learning rate; 2.4e-3 as published (3e-4 * batch_size / 4)."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)]
    """Learning rate at the end over the highest; 0.01 as published."""
    weight_decay: Annotated[float, Field(ge=0)]
    """AdamW's decoupled weight decay."""
    ema_decay: Fraction
    """Decay of the exponential moving average of all weights and buffers, per step."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """Form of the decay of the learning rate; the cosine as published."""
    loss: Literal["poisson", "mse"] = "poisson"
    """Loss of responses: Poisson as published, or the squared error."""
    cutmix: CutMixConfig | None
    """Mixing of windows; null mixes none."""
    precision: Precision
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient; null leaves it as it is."""
    early_stopping: Positive | None = None
    """Epochs without a better validation correlation after which training ends; null never ends early."""
    learning_rate_scale: LearningRateScale | None = Field(default=None, exclude_if=_is_none)
    """Learning rates of the parts, for fine-tuning; null trains all parts alike."""
    trials: Positive | None = Field(default=None, exclude_if=_is_none)
    """Most training trials per mouse, drawn at random; the trials of a smaller number are among those of a larger one.
    null uses all."""

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return self.warmup_epochs + self.cosine_epochs


class DistillationConfig(Section):
    """Learning from the same fold's teacher (arXiv:1503.02531)."""

    teacher: str
    """Experiment whose fold k teaches this experiment's fold k."""
    ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of the loss weight that goes to the teacher's targets; 0.36 as published."""


class StartConfig(Section):
    """Transfer: training begins with the weights of another experiment."""

    experiment: str
    """Experiment whose fold k this experiment's fold k starts from; one of params.yaml, or one whose folds already lie
    in data/experiments/."""
    freeze: Literal["none", "core", "core+cortex"] = "none"
    """Parts that keep the weights they start with."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the frozen parts."""
        return () if self.freeze == "none" else tuple(self.freeze.split("+"))


class ExperimentConfig(Section):
    """One experiment: a model, a recipe and, where it has them, a teacher and a start."""

    model: SerializeAsAny[ModelConfig]
    """Settings of the architecture that `model.architecture` names; see sensorium/architectures.py."""
    training: TrainingConfig
    distillation: DistillationConfig | None = None
    start: StartConfig | None = Field(default=None, exclude_if=_is_none)
    """Trained folds to start from; null starts from random weights."""

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        scale, start = self.training.learning_rate_scale, self.start
        if scale is None or start is None:
            return self
        for part in start.frozen:
            if getattr(scale, part) != 1:
                raise ValueError(
                    f"training.learning_rate_scale.{part} has no effect, as start.freeze is {start.freeze}; "
                    "remove one of the two"
                )
        return self


class PredictionConfig(Section):
    """Sliding-window prediction."""

    batch_size: Positive
    """Windows in one forward pass."""
    precision: Precision
    storage: Annotated[Storage, Field(exclude_if=_is_float32)] = "float32"
    """Type of the predictions on disk. `float16` takes half the space and keeps three significant digits."""


class EvaluationConfig(Section):
    """Which frames count."""

    first_frame: Annotated[int, Field(ge=0)]
    """First scored frame; 50 in the competition."""
    frames: Positive
    """Number of scored frames; 249 with the competition's tooling, 250 with today's official loader."""


class EnsembleConfig(Section):
    """Which experiments are averaged, and how."""

    members: Annotated[tuple[str, ...], Field(min_length=2)]
    """Experiments of the ensemble, two at least."""
    weights: Literal["equal", "fitted"] = "equal"
    """`equal`, as published. `fitted`: the weights of the best single-trial correlation out of fold."""


class RegistryConfig(Section):
    """Which experiments make the registered pair."""

    teacher: str
    """Experiment registered as the teacher."""
    student: str
    """Experiment registered as the student."""


class InsilicoConfig(Section):
    """Experiments in silico of the pipeline, on the registered pair and every mouse."""

    experiments: tuple[Literal["tuning", "receptive-field", "state", "most-exciting-input", "reconstruct"], ...] = ()
    """Verbs below `sensorium insilico`; none by default."""


class SubmissionConfig(Section):
    """What is predicted of the competition's test trials, and submitted."""

    tracks: tuple[Literal["main", "bonus"], ...] = ("main", "bonus")
    """Tracks; none where the mice have no such trials."""


class RuntimeConfig(Section):
    """How the work is carried out. On one machine, `workers` and `checkpoint_steps` change no bit of the result."""

    accelerator: Literal["auto", "cpu", "cuda"]
    """Device to use; `auto` takes a GPU where there is one."""
    devices: Positive
    """Processes that train one fold together; the batch is split among them."""
    threads: Positive | None = None
    """Threads that a training process and a prediction compute with on the CPU; null takes one per core. A small model
    is trained almost as fast by one, which leaves the other cores to other folds and gives equal bits whatever their
    number."""
    workers: Annotated[int, Field(ge=0)]
    """Loader processes per training process; 0 loads in the training process."""
    checkpoint_steps: Positive
    """Optimizer steps between two checkpoints within an epoch."""


class Config(Section):
    """Everything in params.yaml."""

    preset: str = "custom"
    """Preset of conf/preset/ that params.yaml was composed from."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Source of all randomness."""
    dataset: DatasetConfig
    synthetic: SyntheticConfig | None = None
    """Needed when `dataset.get` is `synthesize`."""
    folds: FoldsConfig
    window: WindowConfig
    experiments: dict[str, ExperimentConfig] = Field(min_length=1)
    prediction: PredictionConfig
    evaluation: EvaluationConfig
    ensemble: EnsembleConfig
    registry: RegistryConfig
    insilico: InsilicoConfig = InsilicoConfig()
    submission: SubmissionConfig = SubmissionConfig()
    runtime: RuntimeConfig
    pipeline: PipelineConfig | None = None
    """Derived; only dvc.yaml reads it."""

    @model_validator(mode="after")
    def _check_synthetic(self) -> Self:
        if self.dataset.get == "synthesize":
            if self.synthetic is None:
                raise ValueError("dataset.get is synthesize, but there is no section synthetic")
            missing = sorted(set(self.dataset.mice) - set(self.synthetic.neurons))
            if missing:
                raise ValueError(f"synthetic.neurons has no entry for {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        roles = {"ensemble.members": self.ensemble.members}
        roles |= {f"registry.{role}": (name,) for role, name in self.registry}
        for role, names in roles.items():
            for name in names:
                if name not in self.experiments:
                    raise ValueError(f"{role}: {name!r} is no experiment")
        if len(set(self.ensemble.members)) < len(self.ensemble.members):
            raise ValueError("ensemble.members names an experiment twice")
        if len(",".join(self.ensemble.members)) > _LONGEST_NAME:
            raise ValueError(
                f"ensemble.members: the names have more than {_LONGEST_NAME} characters together, too many for the "
                "folder of their predictions; shorten them"
            )
        if self.registry.teacher == self.registry.student:
            raise ValueError(f"registry: {self.registry.teacher} is both teacher and student; name two experiments")
        return self

    @model_validator(mode="after")
    def _check_experiments(self) -> Self:
        folded: dict[str, str] = {}
        for name in self.experiments:
            if not EXPERIMENT_NAME.fullmatch(name):
                raise ValueError(f"experiments: {name!r} cannot name an experiment; {EXPERIMENT_RULE}")
            if name.casefold() in TAKEN_NAMES:
                raise ValueError(f"experiments: {name!r} means something else in the tables of scores; rename it")
            if folded.setdefault(name.casefold(), name) != name:
                raise ValueError(
                    f"experiments: {folded[name.casefold()]} and {name} differ in upper and lower case alone, which "
                    "folders may not"
                )
            self._check_start(name)
        for name in self.experiments:
            self._check_order((name,))
        return self

    def _check_start(self, name: str) -> None:
        """Refuse a start that is no experiment's name, or has another model."""
        source, key = self.starts[name], f"experiments.{name}.start.experiment"
        if source is None:
            return
        if not EXPERIMENT_NAME.fullmatch(source):
            raise ValueError(f"{key}: {source!r} cannot name an experiment; {EXPERIMENT_RULE}")
        if source in self.experiments and self.experiments[source].model != self.experiments[name].model:
            raise ValueError(
                f"{key}: the section model of {source} differs from that of {name}, so its weights do not fit; "
                f"make experiments.{name}.model the same"
            )

    def _check_order(self, chain: tuple[str, ...]) -> None:
        """Refuse unknown teachers, and an experiment that would wait for itself; `chain` waits for its last entry."""
        name = chain[-1]
        sources = {"distillation.teacher": self.teachers[name], "start.experiment": self.starts[name]}
        for key, source in sources.items():
            if source is None or (key == "start.experiment" and source not in self.experiments):
                continue
            if source not in self.experiments:
                raise ValueError(f"experiments.{name}.{key}: {source!r} is no experiment")
            if source in chain:
                circle = " learns from ".join([*chain[chain.index(source) :], source])
                raise ValueError(f"experiments.{name}.{key}: {circle}, so none can be trained first")
            self._check_order((*chain, source))

    @model_validator(mode="after")
    def _check_pipeline(self) -> Self:
        derived = self.derived_pipeline
        if self.pipeline is not None and self.pipeline.model_dump(mode="json") != derived:
            raise ValueError(
                "pipeline: does not fit the dataset, experiments, folds and ensemble that it is derived from; "
                "after changing them by hand, type `sensorium config --update`"
            )
        return self

    @property
    def teachers(self) -> dict[str, str | None]:
        """Teacher of every experiment, None where it has none."""
        return {
            name: settings.distillation.teacher if settings.distillation else None
            for name, settings in self.experiments.items()
        }

    @property
    def starts(self) -> dict[str, str | None]:
        """Experiment that every experiment starts from, None where it starts from random weights."""
        return {
            name: settings.start.experiment if settings.start else None for name, settings in self.experiments.items()
        }

    @property
    def derived_pipeline(self) -> dict[str, Any]:
        """The section `pipeline` that fits the other sections, as plain values."""
        dataset, folds, members = self.dataset.model_dump(), self.folds.train, self.ensemble.members
        tracks, insilico = self.submission.tracks, self.insilico.experiments
        return pipeline(dataset, self.teachers, self.starts, folds, members, tracks, insilico)

    def experiment(self, name: str) -> ExperimentConfig:
        """Settings of one experiment.

        Raises:
            ConfigError: params.yaml has no such experiment.
        """
        if name not in self.experiments:
            raise ConfigError(
                f"experiment {name!r}: not in {PARAMS_FILE}.", f"Choose one of: {', '.join(self.experiments)}."
            )
        return self.experiments[name]

    def raw_folder(self, root: Path) -> Path:
        """Folder of the raw mice."""
        return root / self.dataset.raw


def _known_keys(location: tuple[int | str, ...], tree: Any) -> list[str]:
    """Field names of the section at `location` of `tree`, for suggestions."""
    section: Any = Config
    for depth, part in enumerate(location):
        tree = tree.get(part) if isinstance(tree, dict) else None
        if depth == 1 and location[0] == "experiments":
            continue  # an experiment's name, which is a key of a mapping and not of a section
        if not (isinstance(section, type) and issubclass(section, Section)):
            return []
        field = section.model_fields.get(str(part))
        annotation = field.annotation if field else None
        choices = [annotation, *get_args(annotation)]
        section = next((c for c in choices if isinstance(c, type) and issubclass(c, Section)), None)
        if section is ModelConfig and isinstance(tree, dict):
            section = settings_class(tree)
    return list(section.model_fields) if section else []


def _explain(fault: dict[str, Any], tree: Any) -> str:
    location = fault["loc"]
    key = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], tree)
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known keys here: {', '.join(known)}." if known else ""
        return f"{key}: unknown key.{hint}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if isinstance(fault["input"], (str, int, float, bool)):
        return f"{key}: {message}, found {fault['input']!r}."
    return f"{key}: {message}." if key else f"{message}."


def parse(tree: Any, source: str) -> Config:
    """Build the settings from a plain tree.

    Args:
        tree: mapping as read from YAML.
        source: file name for messages.

    Raises:
        ConfigError: unknown keys, wrong types or contradictions, all of them at once.
    """
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else type(tree).__name__
        raise ConfigError(
            f"{source}: expected a mapping of sections, found {found}.",
            f"Restore the file with `git checkout {PARAMS_FILE}`, or compose it with `sensorium config --preset demo "
            "--write`.",
        )
    try:
        return Config.model_validate(tree)
    except ValidationError as faults:
        lines = [_explain(dict(fault), tree) for fault in faults.errors()]
        raise ConfigError(
            "\n".join(f"{source}: {line}" for line in lines),
            "Correct the keys named above; conf/preset/ has working examples. sensorium/config.py explains each key, "
            "and the settings in sensorium/model/ those of a model.",
        ) from faults


def load(path: Path) -> Config:
    """Read params.yaml.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or not valid.
    """
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: the file does not exist.", "Run the command inside a clone of the project."
        ) from None
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 text.", "Save the file as UTF-8.") from fault
    except yaml.YAMLError as fault:
        raise ConfigError(f"{path}: not valid YAML: {fault}", "Correct the line named above.") from fault
    return parse(tree, path.name)
