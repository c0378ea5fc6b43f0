"""What DVC's configuration says about a remote.

DVC merges .dvc/config (tracked by git), .dvc/config.local (never tracked) and the user's own files; its
own code reads them here, so that a check sees exactly what `dvc push` would.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sensorium.errors import TransferError

SECRET_KEYS = frozenset({"access_key_id", "secret_access_key", "session_token", "password", "sse_customer_key"})
"""Options that give access; they never belong into a file that git tracks."""

KINDS = {"": "folder", "file": "folder", "s3": "s3", "http": "http", "https": "http"}
"""Kind of remote, by the scheme of its URL."""

OBJECTS = "files/md5"
"""Where DVC 3 keeps its objects below a remote's URL: files/md5/<two digits>/<the other thirty>."""


def object_key(digest: str) -> str:
    """Key of an object, relative to the remote's URL.

    Args:
        digest: MD5 in hexadecimal, with `.dir` behind it for the listing of a folder.
    """
    return f"{OBJECTS}/{digest[:2]}/{digest[2:]}"


@dataclass(frozen=True)
class RemoteSettings:
    """One remote, as DVC would use it."""

    name: str
    """Name in DVC's configuration."""
    url: str
    """Where it is: s3://bucket/prefix, http(s)://host/path, or a folder."""
    options: Mapping[str, Any]
    """All other options of the remote, checked by DVC's own schema."""

    @property
    def kind(self) -> str:
        """One of `folder`, `s3`, `http`."""
        return KINDS[urlsplit(self.url).scheme]

    @property
    def verify(self) -> bool:
        """Whether DVC recomputes the digest of what it pulls from here."""
        return bool(self.options.get("verify"))

    def set_option(self, key: str, value: str, local: bool = False) -> str:
        """The command that sets one option; secrets go to .dvc/config.local."""
        return f"dvc remote modify {'--local ' if local else ''}{self.name} {key} {value}"


def _no_name(known: list[str]) -> TransferError:
    if known:
        return TransferError(
            "remote: no name was given, and core.remote of .dvc/config names no default.",
            f"Name one ({', '.join(known)}), or choose a default: dvc remote default NAME",
        )
    return TransferError(
        "remote: .dvc/config has none.",
        "Add one: dvc remote add NAME s3://BUCKET/PREFIX (docs/how-to/remotes.md shows all).",
    )


def _refuse_tracked_secrets(tracked: Mapping[str, Any], name: str) -> None:
    """Stop when a secret stands where git would publish it."""
    found = sorted(SECRET_KEYS & set(tracked.get("remote", {}).get(name, {})))
    if found:
        key = found[0]
        raise TransferError(
            f"remote {name!r}: {key} stands in .dvc/config, which git tracks and publishes.",
            f"Remove it (dvc remote modify --unset {name} {key}), set it in .dvc/config.local "
            f"(dvc remote modify --local {name} {key} VALUE), and replace the secret if it was ever pushed.",
        )


def read(root: Path, name: str | None) -> RemoteSettings:
    """Read one remote from DVC's configuration.

    Args:
        root: the project's root.
        name: the remote; None for DVC's default.

    Raises:
        TransferError: no such remote, an option that DVC refuses, a secret in a tracked file, or a kind of
            remote that cannot be checked.
    """
    from dvc.fs import get_cloud_fs

    config, name = _find(root, name)
    _refuse_tracked_secrets(config.load_one("repo"), name)
    url = _resolve_url(config, name)
    if urlsplit(url).scheme not in KINDS:
        raise TransferError(
            f"remote {name!r}: {url}: only S3, HTTP and folders can be checked.", "DVC itself may still use it."
        )
    with _configuration(name):
        _, options, _ = get_cloud_fs(config, name=name)
    return RemoteSettings(name, url, options)


def folder_of(root: Path, name: str | None) -> Path | None:
    """Folder of a remote on this machine's file system; None for one that is elsewhere.

    Args:
        root: the project's root.
        name: the remote; None for DVC's default.

    Raises:
        TransferError: no such remote.
    """
    url = urlsplit(_resolve_url(*_find(root, name)))
    return None if url.scheme else Path(url.path)


def _find(root: Path, name: str | None) -> tuple[Any, str]:
    """DVC's configuration, and the name of a remote that stands in it."""
    from dvc.config import Config

    with _configuration(name):
        config = Config(str(root / ".dvc"))
    known = sorted(config["remote"])
    name = (name or config["core"].get("remote") or "").lower()
    if not name:
        raise _no_name(known)
    if name not in known:
        raise TransferError(
            f"remote {name!r}: DVC's configuration has none of this name.",
            f"Choose one of: {', '.join(known) or '(there is none)'}; or add it: dvc remote add {name} URL",
        )
    return config, name


@contextlib.contextmanager
def _configuration(name: str | None) -> Iterator[None]:
    """Name the remote and the file when DVC cannot make sense of its configuration."""
    from dvc.config import ConfigError

    try:
        yield
    except (ConfigError, ValueError) as fault:  # ValueError: a URL that cannot be taken apart
        label = f"remote {name!r}: " if name else ""
        raise TransferError(f"{label}.dvc/config: {fault}", "Correct the option named above.") from fault


def _resolve_url(config: Mapping[str, Any], name: str) -> str:
    """URL of a remote; remote://other/path is followed to the other remote."""
    from dvc.fs import get_fs_config

    return str(get_fs_config(config, name=name)["url"]).removeprefix("file://")
