"""The run that `mlflow run` makes for a command, and the environment that it runs the command in.

A run is named after its command, with what it measured, or why it was refused. A training takes the run over
(`recorder`); of any other verb MLflow itself knows no more than a random name.

MLflow derives the name of an environment folder from python_env.yaml, uses a folder of that name as it
is, and asks for pyenv only when there is none. The folder made here holds nothing but a script to
activate; it is the same for every clone with the same requirements, so the script uses the project
in whose root MLflow starts the command. A clone that MLflow makes itself, of `mlflow run <address>`, was never
installed: it uses the programs of the project that was installed last, and its own code.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sensorium.files import atomic_folder, write_text
from sensorium.paths import Paths
from sensorium.secrets import redact
from sensorium.tracking.descriptions import NOTE
from sensorium.tracking.event_log import now
from sensorium.tracking.runs import ROLE, log_metrics
from sensorium.tracking.store import TrackingStore, mlflow_errors

RUN_VARIABLE = "MLFLOW_RUN_ID"
"""Set by `mlflow run`; stages that the command runs through DVC do not see it."""
RUN_VARIABLES = (RUN_VARIABLE, "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Variables of `mlflow run` that any command it starts in turn would take for its own."""
_NAME_LETTERS = 250
_MARK = "Made by `sensorium project install`"
_SCRIPT = f"""# {_MARK}: activates the environment of the project in the working folder.
if [ -r .sensorium/activate ]; then
  . .sensorium/activate
else
  . "$(dirname "${{BASH_SOURCE[0]}}")/installed"
fi
if command -v sensorium >/dev/null; then
  export PYTHONPATH="$PWD${{PYTHONPATH:+:$PYTHONPATH}}"
else
  echo "Error: $PWD: the environment of the project is gone." >&2
  echo "Type \\`make install\\`, or \\`sensorium project install\\` in an environment of your own." >&2
  false
fi
"""


def log_results(paths: Paths, values: Mapping[str, float | None]) -> None:
    """Record what a verb measured, where `mlflow run` started it; None is left out. See `mlflow_errors`."""
    if run_id := os.environ.get(RUN_VARIABLE):
        known = [(key, value, now(), 0) for key, value in values.items() if value is not None]
        with mlflow_errors(paths):
            log_metrics(TrackingStore.of(paths).client(), run_id, known)


def note_run(paths: Paths, arguments: Sequence[str], fault: str | None) -> None:
    """Name the run of this process after its command, and describe it by the message of the error that ended it."""
    run_id = os.environ[RUN_VARIABLE]
    with mlflow_errors(paths):
        client = TrackingStore.of(paths).client()
        if ROLE not in client.get_run(run_id).data.tags:  # a training names its run itself
            client.update_run(run_id, name=redact(run_name(arguments), paths.root))
        if fault is not None:
            client.set_tag(run_id, NOTE, redact(fault, paths.root))
        for tag, value in client.get_run(run_id).data.tags.items():
            if (masked := redact(value, paths.root)) != value:  # MLflow records the address of the git remote
                client.set_tag(run_id, tag, masked)


def run_name(arguments: Sequence[str]) -> str:
    """Verb and options, such as `run evaluate` or `promote margin=0.0 new-data`."""
    command = " ".join(arguments).removeprefix("project ")
    return re.sub(r"--(\S+) (?!--)", r"\1=", command).replace(" --", " ")[:_NAME_LETTERS]


def install_environment(paths: Paths) -> Path:
    """Let `mlflow run` use the environment of the running interpreter; returns the folder that MLflow will use."""
    folder = environment_folder(paths.root)
    write_text(paths.state / "activate", _activation())
    script = folder / "bin" / "activate"
    if not folder.exists() or (script.is_file() and _MARK in script.read_text(encoding="utf-8")):
        with atomic_folder(folder) as partial:
            (partial / "bin").mkdir()
            (partial / "bin" / "activate").write_text(_SCRIPT, encoding="utf-8")
            (partial / "bin" / "installed").write_text(_activation(), encoding="utf-8")
    return folder


def environment_folder(root: Path) -> Path:
    """Where MLflow looks for the project's environment, below `MLFLOW_ENV_ROOT`."""
    from mlflow.utils import environment, virtualenv

    described = environment._PythonEnv.from_yaml(root / "python_env.yaml")  # noqa: SLF001 - MLflow has no public way
    name = virtualenv._get_virtualenv_name(described, root)  # noqa: SLF001
    return Path(virtualenv._get_mlflow_virtualenv_root()) / str(name)  # noqa: SLF001


def _activation() -> str:
    """Put the running interpreter's programs first, as `activate` of a virtual environment does."""
    programs = shlex.quote(os.path.dirname(sys.executable))  # noqa: PTH120 - links are kept as they are
    return f'export PATH={programs}:"$PATH"\nunset PYTHONHOME\n'
