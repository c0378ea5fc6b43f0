"""`sensorium doctor` and the model registry: what is lost is named, and `sensorium registry restore` mends it."""

import contextlib
import os
import shutil
import sqlite3

import pytest
import yaml

from sensorium.doctor.finding import Project, examine
from sensorium.doctor.tracking import check_registry
from sensorium.registry.pair import register_pair


@pytest.fixture
def registered(trained):
    """A project whose pair is registered and pinned."""
    register_pair(trained.config, trained.paths).save(trained.paths.pair_pin)
    settings = trained.config.model_dump(mode="json", exclude_none=True)
    (trained.paths.root / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return trained


def found(project):
    return list(examine(check_registry, Project(project.paths)))


def remove_database(root):
    (root / "mlflow.db").unlink()


def truncate_database(root):
    os.truncate(root / "mlflow.db", 20_000)


def overwrite_pages(root):
    with (root / "mlflow.db").open("r+b") as stream:
        stream.seek(8192)
        stream.write(b"\xff" * 200_000)


def forget_versions(root):
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute("DELETE FROM model_version_tags WHERE key = 'sensorium.digest' AND name = 'sensorium-pair'")


def lose_objects(root):
    shutil.rmtree(root / ".dvc" / "cache")


_FAULTS = {
    remove_database: "there is no MLflow store",
    truncate_database: "the database is damaged",
    overwrite_pages: "the database is damaged",
    forget_versions: "sensorium-pair is not registered with the digest of the pin",
    lose_objects: "of its 6 files are not in DVC's cache",
}


@pytest.mark.parametrize("damage", _FAULTS, ids=lambda damage: damage.__name__)
def test_a_damaged_registry_is_named_and_restored(registered, damage):
    assert found(registered) == []
    damage(registered.paths.root)
    finding = found(registered)[0]
    assert _FAULTS[damage] in finding.what
    assert "`sensorium registry restore`" in finding.remedy
    assert finding.fix() == "`sensorium registry restore` was run"
    assert found(registered) == []


def test_tables_of_another_version_of_mlflow_are_named(registered):
    with contextlib.closing(sqlite3.connect(registered.paths.root / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'a newer one'")
    (finding,) = found(registered)
    assert "another version of MLflow" in finding.what
    assert "revision a newer one is not known" in finding.remedy


def test_folds_that_are_not_the_pinned_ones_are_named(registered):
    registered.train("true_batch_001", seed=1)
    (finding,) = found(registered)
    assert "not the file that data/registry/pair.json pins" in finding.what
