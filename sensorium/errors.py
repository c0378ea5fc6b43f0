"""The exception tree.

Every mistake a user can make surfaces as a `SensoriumError`: the file or key, what is wrong, what to
do about it. The command line prints its message alone and exits with `exit_code`; it does the same for
what the operating system refuses (`OSError`). Broken invariants of our own are `AssertionError`s and
keep their traceback.
"""

ERROR_FILE_VARIABLE = "SENSORIUM_ERROR_FILE"
"""File into which a command writes why it was refused, for the one that runs it through DVC."""


class SensoriumError(ValueError):
    """A mistake that the user can mend; the message says how."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Join the problem and, on a second line, what to do about it.

        Args:
            problem: the file or key and what is wrong with it, one sentence.
            remedy: what the user should do next, one sentence.
        """
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}\n{remedy}" if remedy else problem)


class ConfigError(SensoriumError):
    """A key of params.yaml or a command-line option is unknown, ill-typed or out of range."""

    exit_code = 2


class DataError(SensoriumError):
    """A raw file, a store or a fold table is missing, damaged or not of the expected form."""


class CheckpointError(SensoriumError):
    """A checkpoint is truncated, foreign, or belongs to another model, mouse or neuron set."""


class PredictionError(SensoriumError):
    """Predictions are missing, of another shape, or not finite."""


class TrainingError(SensoriumError):
    """Training cannot go on: a diverged loss, no memory left, or another trainer at work."""


class UntrainableError(TrainingError):
    """These settings cannot be trained: the loss is not finite, or the memory does not hold the model."""


class TrackingError(SensoriumError):
    """The MLflow tracking store or the model registry refuses, lacks or contradicts something."""


class TransferError(SensoriumError):
    """A download or a remote failed for good, after its retries."""


class PipelineError(SensoriumError):
    """A stage of the pipeline failed, DVC cannot read the project, or another run is at work."""
