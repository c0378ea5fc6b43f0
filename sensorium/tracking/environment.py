"""The environment that a bare `mlflow run .` uses: the one the project is installed in.

MLflow derives the name of an environment folder from python_env.yaml, uses a folder of that name as it
stands, and asks for pyenv only when there is none. The folder made here holds nothing but a script to
activate; it is the same for every clone with the same requirements, so the script looks into the project
in whose root MLflow starts the command. A clone that MLflow makes itself, of `mlflow run <address>`, was never
installed: it uses the programs of the project that was installed last, and its own code.
"""

import os
import shlex
import sys
from pathlib import Path

from sensorium.files import atomic_folder, write_text
from sensorium.paths import Paths

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


def install(paths: Paths) -> Path:
    """Let `mlflow run` use the environment of the running interpreter.

    Returns:
        The environment folder that MLflow will use.
    """
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
