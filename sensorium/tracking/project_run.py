"""The run that `mlflow run` makes for a command: named after it, with what it measured, or why it was refused.

A training takes the run over (`recorder`); of any other verb MLflow itself knows no more than a random name.
"""

import os
from collections.abc import Mapping, Sequence

from sensorium.paths import Paths
from sensorium.tracking.descriptions import NOTE
from sensorium.tracking.event_log import now
from sensorium.tracking.runs import ROLE, log_metrics
from sensorium.tracking.store import TrackingStore, mlflow_errors, redact

RUN_VARIABLE = "MLFLOW_RUN_ID"
"""Set by `mlflow run`; stages that the command runs through DVC do not see it."""
RUN_VARIABLES = (RUN_VARIABLE, "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Variables of `mlflow run` that any command it starts in turn would take for its own."""
_NAME_LETTERS = 250


def log_results(paths: Paths, values: Mapping[str, float | None]) -> None:
    """Record what a verb measured, where `mlflow run` started it; None is left out.

    Raises:
        TrackingError: the store cannot be reached, or refuses.
    """
    if run_id := os.environ.get(RUN_VARIABLE):
        known = [(key, value, now(), 0) for key, value in values.items() if value is not None]
        with mlflow_errors(paths):
            log_metrics(TrackingStore.of(paths).client(), run_id, known)


def note_run(paths: Paths, arguments: Sequence[str], fault: str | None) -> None:
    """Name the run of this process after its command, and describe it by what went wrong.

    Args:
        paths: the project.
        arguments: the command without its program.
        fault: message of the error that ended it.

    Raises:
        TrackingError: the store cannot be reached, or refuses.
    """
    run_id = os.environ[RUN_VARIABLE]
    with mlflow_errors(paths):
        client = TrackingStore.of(paths).client()
        if ROLE not in client.get_run(run_id).data.tags:  # a training names its run itself
            client.update_run(run_id, name=run_name(arguments))
        if fault is not None:
            client.set_tag(run_id, NOTE, redact(fault))


def run_name(arguments: Sequence[str]) -> str:
    """Verb and target, such as `predict distillation_001 live_test_main` or `promote margin=0.0`."""
    of_project = arguments[:1] == ["project"]
    words, option = [], ""
    for word in arguments[1 if of_project else 0 :]:
        if word.startswith("--"):
            words += [option] if option else []
            option = word[2:]
        else:
            words.append(f"{option}={word}" if option and not of_project else word)
            option = ""
    return " ".join([*words, *([option] if option else [])])[:_NAME_LETTERS]
