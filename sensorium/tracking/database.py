"""The embedded database as a file: whether it is whole, and whether its addresses are those of the project.

MLflow stores the addresses of artifacts absolute. A project may be moved or copied with its database, so the root
that the addresses belong to is recorded in the database itself, and they are rewritten when the project has another
one: a copy works on its own files, and nothing outside the project is read or written.
"""

import functools
import importlib.metadata
import importlib.util
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sensorium.errors import TrackingError
from sensorium.tracking.dvc_files import FILES, VersionFiles

ARTIFACTS = "mlartifacts"
"""Folder of the artifacts, in the project's root."""
ROOT_TAG = "sensorium.root"
"""Tag of the oldest experiment: root of the project that all addresses belong to."""

_ADDRESSES = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("tags", "value", " AND key = 'mlflow.source.name'"),
    ("trace_tags", "value", " AND key = 'mlflow.artifactLocation'"),
)
"""Tables and columns of MLflow that hold addresses, and which of their rows do."""
_BUSY_SECONDS = 30.0
_DAMAGE = re.compile(r"malformed|not a database|database corruption|duplicate column name|table \w+ already exists")
"""What SQLite calls a file that holds something else than it wrote, or tables that MLflow made in part."""
_RIGHTS = "Give your user the right to read and write the file and its folder, and mount its disk for writing."
_REFUSALS = {
    "disk is full": "Free space on that disk, then run the command again.",
    "readonly database": _RIGHTS,
    "unable to open database": _RIGHTS,
    "database is locked": "End what keeps it locked. A disk without file locks cannot hold it: name another one.",
    "disk I/O error": "The disk is full, failing or gone: look into the system's log.",
}
"""What to do about a message of SQLite, by words of it."""
RESTORE_DATABASE = (
    "Type `sensorium registry restore`: it moves the file aside, and records trainings and pair in a new one."
)


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises about a database into a TrackingError: it is damaged, or cannot be opened or written."""
    try:
        yield
    except sqlite3.Error as fault:
        if is_damage(str(fault)):
            raise TrackingError(f"{path}: the database is damaged ({fault}).", RESTORE_DATABASE) from fault
        raise TrackingError(
            f"{path}: the database cannot be used ({fault}).", disk_remedy(str(fault)) or _RIGHTS
        ) from fault


def disk_remedy(message: str) -> str | None:
    """What to do where a message of SQLite says that the disk refuses; None where it says something else."""
    return next((remedy for words, remedy in _REFUSALS.items() if words in message), None)


def is_damage(message: str) -> bool:
    """Whether a message of SQLite says that the file is damaged, or its tables unfinished."""
    return _DAMAGE.search(message) is not None


def check_readable(path: Path) -> None:
    """Read the schema, before MLflow tries again and again to open what nobody can; see `database_errors`."""
    if not path.exists():
        return
    with database_errors(path), closing(_connect(path)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
        logged = path.with_name(f"{path.name}-wal").exists()  # its last pages may not be in the file yet
        if not logged and path.stat().st_size < pages * size:
            raise sqlite3.DatabaseError("database disk image is malformed: its end is missing")


def rebase(path: Path, root: Path) -> None:
    """Let all addresses below the root that the database was made for point below the present one.

    Only for the holder of the database's lock, once MLflow has made its tables. The root is absolute and free of links.
    """
    with database_errors(path), closing(_connect(path)) as connection:
        if _recorded(connection) == str(root):
            return
        connection.execute("BEGIN IMMEDIATE")
        recorded = _recorded(connection)
        for old in _roots(connection) if recorded is None else {recorded}:
            _move(connection, Path(old), root)
        if recorded is None:
            _place_default(connection, root)
        connection.execute(
            "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) "
            "SELECT ?, ?, min(experiment_id) FROM experiments HAVING count(*) > 0",
            (ROOT_TAG, str(root)),
        )
        connection.execute("COMMIT")


def set_aside(path: Path) -> Path | None:
    """Move a damaged database out of the way; only for the holder of the database's lock.

    Returns its new name, or None where the database is whole or there is none.
    """
    if not path.exists() or is_whole(path):
        return None
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    for ending in ("-journal", "-wal", "-shm"):  # a new database must not take them for its own
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(target.with_name(target.name + ending))
    return target


def is_whole(path: Path) -> bool:
    """Whether SQLite finds every page as it wrote it, and MLflow was not ended while it made the tables.

    Raises:
        TrackingError: the database cannot be opened.
    """
    try:
        with closing(_connect(path)) as connection:
            sound = connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            return sound and not _is_unfinished(connection)
    except sqlite3.Error as fault:
        if is_damage(str(fault)):
            return False
        with database_errors(path):
            raise


def _is_unfinished(connection: sqlite3.Connection) -> bool:
    """Whether there are tables of an earlier revision which hold no run: nobody has used them since."""
    tables = _tables(connection)
    if not tables or _revision(connection) == newest_schema():
        return False
    return "runs" not in tables or not connection.execute("SELECT count(*) FROM runs").fetchone()[0]


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _revision(connection: sqlite3.Connection) -> str | None:
    if "alembic_version" not in _tables(connection):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of MLflow's model registry, as the database has it."""

    name: str
    version: int
    digest: str | None
    """Tag `sensorium.digest`: identity of the content."""
    folder: Path | None
    """Its files, where they are copies on this machine."""
    objects: tuple[str, ...]
    """DVC's md5 of its weights, where they are objects of DVC."""


def registered(path: Path) -> list[RegisteredVersion]:
    """All versions of the model registry, read without MLflow.

    Raises:
        TrackingError: the database cannot be read.
    """
    tag = (
        "(SELECT value FROM model_version_tags AS tag "
        "WHERE tag.name = entry.name AND tag.version = entry.version AND tag.key = ?)"
    )
    with database_errors(path), closing(_connect(path)) as connection:
        rows = connection.execute(
            f"SELECT name, version, {tag}, coalesce(storage_location, source), {tag} "  # noqa: S608 - names of ours
            "FROM model_versions AS entry WHERE current_stage != 'Deleted_Internal'",
            ("sensorium.digest", FILES),
        ).fetchall()
    return [
        RegisteredVersion(name, number, digest, _folder(address), _objects(files))
        for name, number, digest, address, files in rows
    ]


def _objects(tag: str | None) -> tuple[str, ...]:
    return () if tag is None else tuple(entry.md5 for entry in VersionFiles.unpacked(tag).objects.values())


def _folder(address: str | None) -> Path | None:
    parts = urlsplit(address or "")
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def schema(path: Path) -> str | None:
    """Revision of the tables; None where MLflow has made none.

    Raises:
        TrackingError: the database cannot be read.
    """
    with database_errors(path), closing(_connect(path)) as connection:
        return _revision(connection)


def newest_schema() -> str | None:
    """Revision of the tables that the installed MLflow makes, read from its migrations; None where it has not one."""
    made, replaced = _revisions()
    newest = made - replaced
    return next(iter(newest)) if len(newest) == 1 else None


def schema_remedy(found: str | None, label: str) -> str:
    """What to do about tables of another version of MLflow.

    Args:
        found: revision of the tables, where it is known.
        label: the address of the database.
    """
    if found is None or found in _revisions()[0]:
        return f"Make a copy of it, then type `mlflow db upgrade {label}`."
    return (
        f"Its revision {found} is not known to MLflow {importlib.metadata.version('mlflow')}: a newer one made it. "
        "Type `pip install --upgrade mlflow`, or go back to a copy of the database."
    )


@functools.cache
def _revisions() -> tuple[frozenset[str], frozenset[str]]:
    """Revisions that the installed MLflow's migrations make, and those that they start from."""
    found = importlib.util.find_spec("mlflow")
    if found is None or found.origin is None:
        return frozenset(), frozenset()
    scripts = Path(found.origin).parent.glob("store/db_migrations/versions/*.py")
    texts = [script.read_text(encoding="utf-8") for script in scripts]
    made, replaced = (
        frozenset(match[1] for text in texts if (match := re.search(rf"^{key} = ['\"](\w+)", text, re.MULTILINE)))
        for key in ("revision", "down_revision")
    )
    return made, replaced


def shrink(path: Path) -> None:
    """Give back the room of deleted rows to the disk; SQLite keeps it for later ones by itself.

    Raises:
        TrackingError: the database is damaged, or in use by another process for long.
    """
    with database_errors(path), closing(_connect(path)) as connection:
        connection.execute("VACUUM")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _recorded(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM experiment_tags WHERE key = ?", (ROOT_TAG,)).fetchone()
    return None if row is None else str(row[0])


def _roots(connection: sqlite3.Connection) -> set[str]:
    """Roots that experiments of a database without a record belong to, by where we put their artifacts."""
    roots = set()
    for *names, location in connection.execute("SELECT name, experiment_id, artifact_location FROM experiments"):
        folder = unquote(urlsplit(location or "").path)
        roots |= {
            folder.removesuffix(end) for end in (f"/{ARTIFACTS}/{name}" for name in names) if folder.endswith(end)
        }
    return roots


def _move(connection: sqlite3.Connection, old: Path, new: Path) -> None:
    present = _tables(connection)
    for table, column, condition in _ADDRESSES:
        if table not in present:
            continue
        for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - names of ours
                f"WHERE ({column} = ? OR substr({column}, 1, ?) = ?){condition}",
                (after, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )


def _place_default(connection: sqlite3.Connection, root: Path) -> None:
    """MLflow puts the experiment that it makes itself where the process that came first was at work."""
    connection.execute(
        "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0 "
        "AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.experiment_id = 0)",
        ((root / ARTIFACTS / "0").as_uri(),),
    )
