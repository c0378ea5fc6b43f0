"""Which MLflow store a command talks to, and how a fresh one comes into being.

Without `MLFLOW_TRACKING_URI` the store is embedded: an SQLite file in the project's root, where a bare
`mlflow ui` searches for it, with its artifacts beside it. With the variable, MLflow's own rules hold.
"""

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sensorium.errors import SensoriumError, TrackingError
from sensorium.files import PARTIAL_SUFFIX, discard, sync_tree, tidy, waiting_lock
from sensorium.paths import Paths
from sensorium.secrets import redact
from sensorium.tracking.database import (
    ARTIFACTS,
    RESTORE_DATABASE,
    check_readable,
    disk_remedy,
    is_damage,
    rebase,
    schema_remedy,
)
from sensorium.tracking.views import TAGS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"
_DEFAULT_ID, _DEFAULT = "0", "Default"

_TIMEOUT, _RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_CLIENT_SETTINGS = {_TIMEOUT: "600", _RETRIES: "2", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""Client settings unless the user sets others: a server answers an upload only when S3 has all of the weights,
and MLflow's own retries would hold a stage for minutes when nobody answers."""


def set_short_timeouts() -> None:
    """Give up soon on a server that is slow: for a process that sends small things and can try again."""
    os.environ.setdefault(_TIMEOUT, "10")
    os.environ.setdefault(_RETRIES, "1")


def expected_faults() -> tuple[type[Exception], ...]:
    """What a store, the network, a disk or a damaged log may raise; anything else is a fault of our code."""
    import boto3.exceptions
    import botocore.exceptions
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    of_s3 = (boto3.exceptions.Boto3Error, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
    return (SensoriumError, OSError, MlflowException, SQLAlchemyError, *of_s3)


@contextmanager
def mlflow_errors(paths: Paths) -> Iterator[None]:
    """Turn what MLflow raises into a TrackingError: the store is damaged, cannot be reached, or refuses."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as fault:
        reason = str(fault).splitlines()[0]
        name = TrackingStore.of(paths).label.removeprefix(_SQLITE)
        if is_damage(str(fault)):
            raise TrackingError(f"{name}: the database is damaged ({reason}).", RESTORE_DATABASE) from fault
        if remedy := disk_remedy(str(fault)):
            raise TrackingError(f"{name}: the database cannot be used ({reason}).", remedy) from fault
        raise TrackingError(
            f"MLflow: {reason}",
            f"Check {URI_VARIABLE} and that the server answers, then try again.",
        ) from fault


@dataclass(frozen=True)
class TrackingStore:
    """An MLflow tracking store and model registry."""

    uri: str
    """Tracking URI; paths in it are absolute."""
    root: Path
    """The project's root."""
    home: Path
    """Root of the project that keeps store and event logs: another one where DVC runs a queued experiment in a copy."""

    @classmethod
    def of(cls, paths: Paths) -> "TrackingStore":
        """The store in force: `MLFLOW_TRACKING_URI`, or the embedded one.

        Raises:
            TrackingError: the variable names a store that MLflow no longer writes.
        """
        root = paths.root.resolve()
        queued = os.environ.get("DVC_EXP_NAME") and os.environ.get("DVC_ROOT")  # DVC sets them for an experiment
        home = Path(queued).resolve() if queued else root
        uri = os.environ.get(URI_VARIABLE) or f"{_SQLITE}{home}/mlflow.db"
        if uri.startswith(_SQLITE) and "?" not in uri:  # equal stores have equal URIs
            uri = _SQLITE + str(Path(uri.removeprefix(_SQLITE)).resolve())
        if urlsplit(uri).scheme in {"", "file"}:
            raise TrackingError(
                f"{URI_VARIABLE}: {uri} is a folder, which MLflow 3 does not write runs into.",
                f"Unset {URI_VARIABLE} for the embedded store, or name a server or a database.",
            )
        return cls(uri, root, home)

    @property
    def _served(self) -> bool:
        return urlsplit(self.uri).scheme in {"http", "https"}

    @property
    def label(self) -> str:
        """The URI as it may be shown and stored: without a password."""
        return redact(self.uri)

    @property
    def database(self) -> Path | None:
        """File of the embedded database; None where the store is another one."""
        file = self.home / "mlflow.db"
        return file if self.uri == f"{_SQLITE}{file}" else None

    @property
    def portable(self) -> str:
        """The URI as a stage's output may hold it: without a password, a file in the project relative to the root."""
        path = Path(self.uri.removeprefix(_SQLITE))
        if self.uri.startswith(_SQLITE) and path.is_relative_to(self.home):
            return _SQLITE + path.relative_to(self.home).as_posix()
        return self.label

    @property
    def state(self) -> Path:
        """Folder of the event logs and locks."""
        return Paths(self.home).state / "tracking"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let functions of MLflow that take no address use this store; otherwise they use the working folder."""
        before = os.environ.get(URI_VARIABLE)
        os.environ[URI_VARIABLE] = self.uri
        try:
            yield
        finally:
            if before is None:
                del os.environ[URI_VARIABLE]
            else:
                os.environ[URI_VARIABLE] = before

    def client(self) -> "MlflowClient":
        """A client of tracking store and registry; a fresh database is initialised once, under a lock.

        Eight processes that open a fresh SQLite file at the same time break its migration, so the
        first one to come does it alone. The addresses in the embedded one follow a project that was moved or copied.

        Raises:
            TrackingError: the database was made by another version of MLflow, is damaged or a link to nowhere, or
                cannot be written.
        """
        for name, value in _CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self._require_linked()
        if self._served:
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        with self.database_lock():
            client = self._open_database()
            if self.database is not None:
                rebase(self.database, self.home)
            return client

    def _require_linked(self) -> None:
        """Refuse a link to nowhere in the place of the embedded database: a new one would be made where it points."""
        link = self.home / "mlflow.db"
        if link.is_symlink() and not link.exists() and self.uri == f"{_SQLITE}{link.resolve()}":
            raise TrackingError(
                f"{link}: a link to {link.readlink()}, which does not exist.",
                "Mount the disk that it points to, or begin a new database: "
                f"`rm {shlex.quote(os.path.relpath(link))} && sensorium registry restore`.",
            )

    @contextmanager
    def database_lock(self) -> Iterator[None]:
        """Held by whoever makes, rewrites or replaces the database."""
        with waiting_lock(self.state / "database.lock"):
            yield

    def _open_database(self) -> "MlflowClient":
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if self.database is not None:
            check_readable(self.database)
            if not self.database.exists():
                self._make_database(self.database)
        try:
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)  # the first call creates the tables
        except MlflowException as fault:
            if "out-of-date" not in str(fault):
                raise
            found = re.search(r"found version (\w+)", str(fault))
            raise TrackingError(
                f"{self.label}: the database was made by another version of MLflow.",
                schema_remedy(found and found[1], self.label),
            ) from fault
        return client

    def _make_database(self, file: Path) -> None:
        """Make a fresh database beside its place: MLflow cannot go on with tables whose making was interrupted."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        tidy(file)  # only the holder of the lock is here
        folder = Path(tempfile.mkdtemp(prefix=f".{file.name}.", suffix=PARTIAL_SUFFIX, dir=file.parent))
        try:
            made = SqlAlchemyStore(f"{_SQLITE}{folder / file.name}", (self.home / ARTIFACTS).as_uri())
            made.engine.dispose()
            sync_tree(folder)
            (folder / file.name).rename(file)
        finally:
            discard(folder)

    def experiment_id(self, client: "MlflowClient", name: str, location: str | None = None) -> str:
        """The MLflow experiment of that name, made when missing.

        A database keeps rows alone, so the artifacts are beside its file, or in the project where it has none; a
        server decides by itself. `location` names another place.
        """
        with waiting_lock(self.state / "experiments.lock"):
            found = client.get_experiment_by_name(name)
            if found is None and location is not None:
                found = client.get_experiment(client.create_experiment(name, location))
            found = found or self._create_experiment(client, name)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        for key in TAGS.keys() - found.tags.keys():  # `mlflow run --experiment-name` may have made it
            client.set_experiment_tag(found.experiment_id, key, TAGS[key])
        return str(found.experiment_id)

    def _create_experiment(self, client: "MlflowClient", name: str) -> "Experiment":
        """Create an MLflow experiment; the first one of an embedded store is MLflow's own, renamed.

        MLflow makes the experiment 0, `Default`, in every store, makes it anew where it is missing, and puts runs of
        `mlflow run` there. Renamed, it stays, and these runs are beside the others.
        """
        # a project that MLflow cloned for one run is not where artifacts should be: they are beside a database file
        is_file = self.uri.startswith(_SQLITE) and "?" not in self.uri
        folder = Path(self.uri.removeprefix(_SQLITE)).parent if is_file else self.home
        default = client.get_experiment(_DEFAULT_ID) if self.database is not None else None
        if default is not None and default.name == _DEFAULT and self._is_ours(default.artifact_location):
            client.rename_experiment(_DEFAULT_ID, name)
        else:
            client.create_experiment(name, None if self._served else (folder / ARTIFACTS / name).as_uri())
        return client.get_experiment_by_name(name)

    def _is_ours(self, location: str) -> bool:
        """Whether artifacts are in the project; where `mlflow ui` made the store, only its server reaches them."""
        parts = urlsplit(location)
        return parts.scheme in {"", "file"} and Path(unquote(parts.path)).is_relative_to(self.home)
