"""A project that was moved or copied works on its own files, and a database that was damaged is replaced."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from sensorium.commands import restore
from sensorium.errors import TrackingError
from sensorium.files import folder_digest
from sensorium.paths import Paths
from sensorium.registry.model_registry import ModelRegistry
from sensorium.registry.pair import load_pair
from sensorium.stages import register
from sensorium.tracking import recorder, start_training_run
from sensorium.tracking.database import ROOT_TAG, set_aside
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.store import TrackingStore, mlflow_errors
from sensorium.tracking.uploader import Uploader


def beside(project, root):
    """The same settings in another folder."""
    return replace(project, paths=Paths(root))


@pytest.fixture(scope="module")
def template(tmp_path_factory, fresh_database, new_project):
    """Folder of a project with a registered pair and a finished run; each test moves a copy of it."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
        patch.setattr(recorder, "ensure_running", lambda _store, **_options: None)
        patch.setattr(recorder, "_await_upload", lambda journal, store, _: Uploader(journal, store).upload())
        shutil.copyfile(fresh_database, root / "mlflow.db")
        project = new_project(root)
        for name in ("true_batch_001", "distillation_001"):
            project.train(name)
        project.score()
        run = start_training_run(project.config, project.paths, "true_batch_001", 0, "a" * 64)
        run.artifact(project.paths.fold("true_batch_001", 0) / "config.json")
        run.close("FINISHED")
        register.run(project.config, project.paths)
    shutil.rmtree(project.paths.state)
    return root


@pytest.fixture
def registered(bare_project, template):
    """The template in a folder whose name needs quoting."""
    root = bare_project.paths.root / "my project"
    shutil.copytree(template, root)
    project = beside(bare_project, root)
    project.store.client()
    shutil.rmtree(project.paths.state)
    return project


def copied(project, name):
    root = project.paths.root.parent / name
    shutil.copytree(project.paths.root, root)
    return beside(project, root)


def stale(project, old):
    """Columns that still name a place."""
    found = []
    with closing(sqlite3.connect(project.paths.root / "mlflow.db")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for column in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
                for value in (f"{old}/", f"{old.as_uri()}/"):
                    clause = f"instr(CAST({column} AS TEXT), ?)"
                    if connection.execute(f"SELECT 1 FROM {table} WHERE {clause}", (value,)).fetchone():
                        found.append(f"{table}.{column}")
    return found


def run_artifacts(project):
    client = project.store.client()
    experiment = client.get_experiment_by_name(leaderboard_name(project.config.preset))
    (run,) = client.search_runs([experiment.experiment_id], "tags.`sensorium.role` = 'fold'")
    return [artifact.path for artifact in client.list_artifacts(run.info.run_id)]


def test_a_moved_project_finds_its_pair_and_makes_nothing_at_the_old_place(registered):
    root = registered.paths.root
    moved = beside(registered, root.rename(root.parent / "elsewhere"))
    pair = load_pair(moved.paths.pair_pin, moved.paths)
    assert all(folder.is_relative_to(moved.paths.root) for folders in pair.values() for folder in folders)
    assert run_artifacts(moved) == ["config.json", "params.yaml"]
    restore.run(moved.config, moved.paths)
    assert not root.exists()
    assert stale(moved, root) == []


@pytest.mark.parametrize("name", ["my project 2", "my project/inside"])
def test_a_copy_works_on_its_own_files_beside_the_original(registered, name):
    source = registered.paths.root
    twin = source.parent / "twin"
    shutil.copytree(source, twin)
    copy = beside(registered, twin.rename(source.parent / name))
    content = (registered.paths.fold("true_batch_001", 0) / "model.safetensors").read_bytes()
    digest = hashlib.md5(content).hexdigest()
    weights = source / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    weights.chmod(0o644)
    weights.write_bytes(b"damaged")
    before = folder_digest(source / "mlartifacts"), (source / "mlflow.db").read_bytes()
    pair = load_pair(copy.paths.pair_pin, copy.paths)
    assert all(folder.is_relative_to(copy.paths.root) for folders in pair.values() for folder in folders)
    shutil.rmtree(copy.paths.root / "mlartifacts")
    restore.run(copy.config, copy.paths)
    assert load_pair(copy.paths.pair_pin, copy.paths)
    assert (folder_digest(source / "mlartifacts"), (source / "mlflow.db").read_bytes()) == before
    with pytest.raises(TrackingError, match=r"model\.safetensors: neither in DVC's cache"):
        load_pair(registered.paths.pair_pin, registered.paths)


def test_a_database_of_an_earlier_release_follows_its_project(registered):
    root = registered.paths.root
    with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        connection.execute("DELETE FROM experiment_tags WHERE key = ?", (ROOT_TAG,))
    moved = beside(registered, root.rename(root.parent / "elsewhere"))
    assert load_pair(moved.paths.pair_pin, moved.paths)
    assert stale(moved, root) == []


def test_a_queued_experiment_leaves_the_addresses_of_its_project(registered, monkeypatch):
    addresses = (registered.paths.root / "mlflow.db").read_bytes()
    queue = registered.paths.root / ".dvc" / "tmp" / "exps" / "tmp123"
    queue.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(registered.paths.root))
    monkeypatch.setenv("DVC_EXP_NAME", "gusty-lamb")
    TrackingStore.of(Paths(queue)).client()
    assert (registered.paths.root / "mlflow.db").read_bytes() == addresses


def test_a_store_whose_folder_is_gone_is_not_made_again_outside_the_project(registered, tmp_path, monkeypatch):
    database = tmp_path / "shared.db"
    (registered.paths.root / "mlflow.db").rename(database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    moved = copied(registered, "elsewhere")
    registered.paths.root.rename(tmp_path / "gone")
    restore.run(moved.config, moved.paths)
    copies = (registered.paths.root / "mlartifacts" / "1" / "artifacts").as_uri()  # of an earlier release
    with pytest.raises(TrackingError, match=r"mlartifacts: the folder in which .*shared\.db keeps its files does not"):
        ModelRegistry(moved.paths)._fill(copies, None)
    assert not registered.paths.root.exists()


def truncate(path):
    with path.open("r+b") as stream:
        stream.truncate(20_000)


def overwrite_a_table(path):
    """Spoil pages in the middle: the schema can still be read."""
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        pages = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name IN ('experiments', 'runs')"
        ).fetchall()
    with path.open("r+b") as stream:
        for (page,) in pages:
            stream.seek((page - 1) * size)
            stream.write(b"\xff" * size)


def replace_by_text(path):
    path.write_text("no database\n" * 1000)


@pytest.mark.parametrize("damage", [truncate, overwrite_a_table, replace_by_text])
def test_a_damaged_database_is_named_with_the_command_that_mends_it(registered, damage):
    damage(registered.paths.root / "mlflow.db")
    with pytest.raises(TrackingError, match=r"my project/mlflow\.db: the database is damaged") as told:
        load_pair(registered.paths.pair_pin, registered.paths)
    assert "`sensorium registry restore`" in told.value.remedy


def test_restore_keeps_a_damaged_database_and_begins_a_new_one(bare_project, template):
    root = bare_project.paths.root / "spoiled"
    shutil.copytree(template, root)
    project, database = beside(bare_project, root), root / "mlflow.db"
    overwrite_a_table(database)
    spoiled = database.read_bytes()
    restore.run(project.config, project.paths)
    assert load_pair(project.paths.pair_pin, project.paths)
    assert database.with_name("mlflow.db.damaged-1").read_bytes() == spoiled


def test_a_database_whose_making_was_interrupted_is_not_there(bare_project, monkeypatch):
    class Interrupted(SqlAlchemyStore):
        def __init__(self, uri, artifacts):
            super().__init__(uri, artifacts)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            bare_project.store.client()
    assert [path.name for path in bare_project.paths.root.iterdir() if "mlflow.db" in path.name] == []
    (bare_project.paths.root / ".mlflow.db.x.partial").mkdir()  # of a process that was killed
    assert (
        bare_project.store.client()
        .search_experiments()[0]
        .artifact_location.startswith(bare_project.paths.root.as_uri())
    )
    assert [path.name for path in bare_project.paths.root.iterdir() if "mlflow.db" in path.name] == ["mlflow.db"]


def test_tables_that_were_made_in_part_are_named_and_replaced(bare_project, fresh_database):
    """As `mlflow ui` leaves them that is killed while it makes a database."""
    file = bare_project.paths.root / "mlflow.db"
    shutil.copyfile(fresh_database, file)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'cbc13b556ace'")
        connection.execute("DROP TABLE webhook_events")
    with pytest.raises(TrackingError, match=r"is damaged(.|\n)*registry restore"), mlflow_errors(bare_project.paths):
        bare_project.store.client()
    aside = set_aside(file)
    assert aside is not None
    assert aside.exists()
    assert not file.exists()


def test_a_database_that_is_a_link_to_nowhere_is_not_made_there(bare_project):
    root = bare_project.paths.root
    (root / "mlflow.db").symlink_to(root / "disk" / "mlflow.db")
    (root / "disk").mkdir()
    with pytest.raises(TrackingError, match=r"a link to .*/mlflow\.db, which does not exist(.|\n)*`rm mlflow\.db &&"):
        TrackingStore.of(bare_project.paths).client()
    assert not list((root / "disk").iterdir())


def test_a_database_that_cannot_be_opened_is_told_at_once(registered):
    database = registered.paths.root / "mlflow.db"
    database.unlink()
    database.mkdir()
    with pytest.raises(TrackingError, match=r"mlflow\.db: the database cannot be used \(unable to open"):
        load_pair(registered.paths.pair_pin, registered.paths)


def test_restore_leaves_a_whole_database_where_it_is(registered):
    restore.run(registered.config, registered.paths)
    assert not list(registered.paths.root.glob("mlflow.db.damaged*"))
