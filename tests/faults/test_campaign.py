"""A sample of the campaign of faults, on a clone that pulled the embedded results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT

sys.path.insert(0, str(Path(__file__).parent))

from campaign import GOOD, Campaign, combinations, sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COUNT = 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A clone with all outputs and a registered pair."""
    project = tmp_path_factory.mktemp("finished") / "project"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in (
        ["git", "clone", "--quiet", str(ROOT), str(project)],
        ["dvc", "pull", "--quiet"],
        ["sensorium", "registry", "restore"],
    ):
        folder = project if project.exists() else project.parent
        subprocess.run(command, cwd=folder, env=os.environ | {"PATH": programs}, check=True)
    return project


def test_no_fault_of_a_sample_ends_badly(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    campaign = Campaign(finished, tmp_path)
    outcomes = [campaign.run(combination) for combination in sample(combinations(finished), COUNT, seed=0)]
    assert len(outcomes) == COUNT
    failures = [str(outcome) for outcome in outcomes if outcome.verdict not in GOOD]
    assert not failures, "\n".join(failures)
