"""A queued experiment runs in a copy of the project that DVC removes: what it tells goes to the project."""

from sensorium.paths import Paths
from sensorium.tracking.store import TrackingStore


def test_the_store_is_that_of_the_project(tmp_path, monkeypatch):
    project, copy = tmp_path / "project", tmp_path / "project" / ".dvc" / "tmp" / "exps" / "tmp123"
    copy.mkdir(parents=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    at_home = TrackingStore.of(Paths(project))
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert TrackingStore.of(Paths(copy)).home == copy, "a stage that is run by hand, in no experiment"
    monkeypatch.setenv("DVC_EXP_NAME", "gusty-lamb")
    queued = TrackingStore.of(Paths(copy))
    assert queued.root == copy
    assert (queued.uri, queued.state) == (at_home.uri, at_home.state)
    assert queued.embedded
    assert queued.portable == at_home.portable == "sqlite:///mlflow.db"
