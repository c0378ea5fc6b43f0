"""Predictions need the base dependencies alone: neither DVC nor MLflow, nor what training and the command line need."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_LOADED = """
import json, sys
import sensorium
assert "torch" not in sys.modules and "pydantic" not in sys.modules, "import sensorium must do no work"
sensorium.load
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def names(requirements):
    return {canonicalize_name(Requirement(line).name) for line in requirements}


@pytest.fixture(scope="module")
def declared():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_loading_a_model_imports_nothing_of_the_platform(declared):
    done = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True, cwd=ROOT)
    distributions = packages_distributions()
    imported = {canonicalize_name(name) for top in json.loads(done.stdout) for name in distributions.get(top, [])}
    base = names(declared["dependencies"])
    extras = {name for lines in declared["optional-dependencies"].values() for name in names(lines)} - base
    assert base <= imported, "a base dependency that loading a model does not import belongs to an extra"
    assert not imported & extras


def test_the_command_line_says_what_it_lacks(tmp_path):
    code = "import sys; sys.modules['typer'] = None; from sensorium.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the command line needs typer, which is not installed.")
    assert "Traceback" not in done.stderr
