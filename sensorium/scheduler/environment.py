"""The environment of the commands that are started here."""

import os
import sys
from pathlib import Path

from sensorium.tracking.project_run import RUN_VARIABLES
from sensorium.tracking.timeouts import UPLOAD_TIMEOUT, upload_timeout


def command_environment(executor: str) -> dict[str, str]:
    """This process's environment, with the project's programs and without the MLflow run of whoever called.

    Args:
        executor: name of the executor.
    """
    kept = {name: value for name, value in os.environ.items() if name not in RUN_VARIABLES}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    if executor != "local":  # a cluster ends what a job leaves behind, the uploader as well
        kept[UPLOAD_TIMEOUT] = f"{upload_timeout():g}"
    return kept
