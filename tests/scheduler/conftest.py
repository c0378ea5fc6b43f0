"""Fixtures around small DVC projects."""

import pytest
from toy_project import Project


@pytest.fixture
def project(tmp_path):
    """Make a project from its stages."""
    return lambda stages, name="project": Project(tmp_path / name, stages)


@pytest.fixture
def processes():
    """Processes that a test starts; none outlives it."""
    started = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
