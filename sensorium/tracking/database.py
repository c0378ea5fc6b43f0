"""The embedded database as a file: whether it is whole, and whether its addresses are those of the project.

MLflow stores the addresses of artifacts absolute. A project may be moved or copied with its database, so the root
that the addresses belong to is recorded in the database itself, and they are rewritten when the project has another
one: a copy works on its own files, and nothing outside the project is read or written.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sensorium.errors import TrackingError

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
_DAMAGE = ("malformed", "not a database", "database corruption")
"""What SQLite calls a file that holds something else than it wrote."""
RESTORE_DATABASE = (
    "Type `sensorium registry restore`: it moves the file aside, and records trainings and pair in a new one."
)


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into an error for the user.

    Args:
        path: the database.

    Raises:
        TrackingError: it is damaged, or cannot be opened or written.
    """
    try:
        yield
    except sqlite3.Error as fault:
        if is_damage(str(fault)):
            raise TrackingError(f"{path}: the database is damaged ({fault}).", RESTORE_DATABASE) from fault
        raise TrackingError(
            f"{path}: the database cannot be used ({fault}).",
            "Give your user the right to read and write the file and its folder, and end what keeps it locked.",
        ) from fault


def is_damage(message: str) -> bool:
    """Whether a message of SQLite says that the file is damaged."""
    return any(words in message for words in _DAMAGE)


def check_readable(path: Path) -> None:
    """Read the schema, before MLflow tries again and again to open what nobody can.

    Raises:
        TrackingError: the database is damaged, or cannot be opened.
    """
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

    Only for the holder of the database's lock, once MLflow has made its tables.

    Args:
        path: the embedded database.
        root: the project's root, absolute and free of links.

    Raises:
        TrackingError: the database is damaged, or cannot be written.
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

    Returns:
        Its new name, or None where the database is whole or there is none.

    Raises:
        TrackingError: it cannot be read, for another reason than damage.
    """
    if not path.exists() or _is_whole(path):
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


def _is_whole(path: Path) -> bool:
    try:
        with closing(_connect(path)) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")
    except sqlite3.Error as fault:
        if is_damage(str(fault)):
            return False
        with database_errors(path):
            raise


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
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
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
