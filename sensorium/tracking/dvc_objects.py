"""Objects of DVC by their MD5: in a project's cache, or fetched into it from one of its remotes.

DVC's commands find objects by the outputs that a work tree or a commit names. What the model registry names by digest
has to be found without either, so this asks DVC's configuration, cache and file systems directly.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.errors import TrackingError
from sensorium.files import Record, atomic_file
from sensorium.paths import user_cache
from sensorium.recovery import cache_folder

if TYPE_CHECKING:
    from dvc.data_cloud import Remote

_SQLITE = "sqlite:///"
_CONNECT_SECONDS = 10
_JOBS = 4


class StoredObject(Record):
    """A file that DVC keeps."""

    md5: str
    size: int


def project_of(store: str) -> Path:
    """Whose DVC settings hold for a store of MLflow: the project around its database or the working folder.

    Args:
        store: address of the store.

    Returns:
        The project's root, or the user's cache folder: there the settings of `dvc remote add --global` hold.
    """
    database = [Path(store.removeprefix(_SQLITE)).resolve().parent] if store.startswith(_SQLITE) else []
    for start in (*database, Path.cwd()):
        for folder in (start, *start.parents):
            if (folder / ".dvc").is_dir():
                return folder
    return user_cache()


class DvcObjects:
    """Cache and remotes of a project."""

    def __init__(self, root: Path) -> None:
        """Nothing is read yet; `root` is the project's root."""
        self._root = root

    @cached_property
    def _config(self) -> Any:
        from dvc.config import Config, ConfigError

        try:
            return Config(str(self._root / ".dvc"))
        except ConfigError as fault:
            raise TrackingError(f"{self._root / '.dvc'}: {fault}", "Correct the option named above.") from fault

    @cached_property
    def _cache(self) -> Any:
        """DVC's database of the cache."""
        from dvc_data.hashfile.db import get_odb
        from dvc_objects.fs.local import localfs

        folder, shared = cache_folder(self._root) / "files" / "md5", self._config["cache"].get("shared")
        return get_odb(localfs, str(folder), shared=shared, hash_name="md5")  # type: ignore[no-untyped-call]

    def add(self, path: Path) -> StoredObject:
        """Put a file into the cache, unless it is there."""
        from dvc_data.hashfile.hash import file_md5
        from dvc_objects.fs.local import localfs

        digest = file_md5(str(path), localfs)
        if not self._holds(digest):
            self._replace(digest, str(path), localfs)
        return StoredObject(md5=digest, size=path.stat().st_size)

    def require(self, names: Mapping[str, str]) -> None:
        """Fetch what the cache lacks, or holds damaged, from the first remote that has it.

        Args:
            names: what each object is, for messages, by its MD5.

        Raises:
            TrackingError: one is neither in the cache nor in a remote that can be reached.
        """
        missing = [digest for digest in names if not self._holds(digest)]
        told = {}
        for name in self._remotes() if missing else ():
            told[name] = self._fetch(name, missing)
            missing = [digest for digest in missing if not self._holds(digest)]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            places = ", ".join(f"remote {name!r} ({reason})" for name, reason in told.items()) or "a remote"
            raise TrackingError(
                f"{names[missing[0]]}{more}: neither in DVC's cache at {self._cache.path} nor in {places}.",
                "Type `dvc push` where it was trained (with `-r NAME` for another remote than the default one) and add "
                "that remote here, or type `sensorium registry restore` where data/experiments holds it.",
            )

    def place(self, digest: str, target: Path, links: Sequence[str]) -> None:
        """Make `target` a file of an object that `require` has found.

        Args:
            digest: its MD5.
            target: a file that does not exist.
            links: DVC's types of links, the first that works is used.
        """
        from dvc_objects.fs.generic import transfer

        target.parent.mkdir(parents=True, exist_ok=True)
        source = self._cache.oid_to_path(digest)
        transfer(self._cache.fs, source, self._cache.fs, str(target), links=list(links))

    def _holds(self, digest: str) -> bool:
        """Whether the cache has an object, undamaged."""
        from dvc_data.hashfile.hash import file_md5

        path = self._cache.oid_to_path(digest)
        return Path(path).is_file() and file_md5(path, self._cache.fs) == digest

    def _remotes(self) -> Iterator[str]:
        """Names of all remotes, the default one first."""
        default = self._config["core"].get("remote")
        yield from sorted(self._config["remote"], key=lambda name: (name != default, name))

    def _fetch(self, name: str, digests: Sequence[str]) -> str:
        """Fetch what a remote has of the objects; returns the reason why it is not all."""
        try:
            remote = self._open(name)
            with ThreadPoolExecutor(_JOBS) as pool:
                faults = list(pool.map(lambda digest: self._fetch_one(remote, digest), digests))
        except Exception as fault:  # each kind of remote raises its own
            faults = [fault]
        reasons = [fault for fault in faults if fault is not None and not isinstance(fault, FileNotFoundError)]
        return (str(reasons[0]) or type(reasons[0]).__name__).splitlines()[0] if reasons else "not there"

    def _fetch_one(self, remote: "Remote", digest: str) -> Exception | None:
        try:
            self._replace(digest, remote.odb.oid_to_path(digest), remote.fs)
        except Exception as fault:
            return fault
        return None

    def _open(self, name: str) -> "Remote":
        from dvc.data_cloud import Remote
        from dvc.fs import get_cloud_fs

        kind, options, path = get_cloud_fs(self._config, name=name)
        if kind.protocol == "s3":
            options.setdefault("connect_timeout", _CONNECT_SECONDS)
        return Remote(name, path, kind(**options), **options)

    def _replace(self, digest: str, source: str, fs: Any) -> None:
        """Put an object into the cache, verified; one that is there already is damaged."""
        from dvc_data.hashfile.hash import file_md5
        from dvc_objects.fs.generic import transfer

        target = Path(self._cache.oid_to_path(digest))
        self._cache.makedirs(str(target.parent))
        with atomic_file(target) as partial:
            transfer(fs, source, self._cache.fs, str(partial), links=["reflink", "copy"])
            if file_md5(str(partial), self._cache.fs) != digest:
                raise TrackingError(f"{source} is damaged")
            self._cache.protect(str(partial))
