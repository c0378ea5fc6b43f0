"""A remote as DVC's configuration describes it: what a check sees is what `dvc push` would use."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sensorium.errors import TransferError
from sensorium.secrets import is_secret

if TYPE_CHECKING:
    from dvc.data_cloud import Remote

SCHEMES = ("", "file", "s3", "http", "https")
"""Beginnings of the URLs of what can be checked."""


def open_remote(config: Any, name: str | None, timeout: float) -> "Remote":
    """Make DVC's own object of a remote, with its file system and object database; nothing is contacted yet.

    Args:
        config: DVC's configuration.
        name: the remote; None for DVC's default.
        timeout: seconds that a server may take to answer.

    Raises:
        TransferError: no such remote, an option that DVC refuses, a secret in a tracked file, or a kind of
            remote that cannot be checked.
    """
    from dvc.data_cloud import Remote
    from dvc.fs import get_cloud_fs, get_fs_config

    name = _existing(config, name)
    tracked = config.load_one("repo").get("remote", {}).get(name, {})
    for option in sorted(filter(is_secret, tracked)):
        raise TransferError(
            f"remote {name!r}: {option} is in .dvc/config, which git tracks and publishes.",
            f"Remove it (dvc remote modify --unset {name} {option}), set it in .dvc/config.local "
            f"(dvc remote modify --local {name} {option} VALUE), and replace the secret if it was ever pushed.",
        )
    with _configuration(name):
        url = str(get_fs_config(config, name=name)["url"])
        if urlsplit(url).scheme not in SCHEMES:
            raise TransferError(
                f"remote {name!r}: {url}: only S3, HTTP and folders can be checked.", "DVC itself may still use it."
            )
        kind, options, path = get_cloud_fs(config, name=name)
        options |= {"connect_timeout": timeout, "read_timeout": timeout}
        fs = kind(url=url, **options)
        # The first failure is reported, instead of trying again for minutes.
        fs.SESSION_RETRIES = 1
        if fs.protocol == "s3":
            fs.fs_args.setdefault("config_kwargs", {})["retries"] = {"total_max_attempts": 1}
    return Remote(name, path.removeprefix("file://"), fs, **options)


def folder_of(root: Path, name: str | None) -> Path | None:
    """Folder of a remote on this machine's file system; None for one that is elsewhere.

    Args:
        root: the project's root.
        name: the remote; None for DVC's default.

    Raises:
        TransferError: no such remote.
    """
    from dvc.config import Config
    from dvc.fs import get_fs_config

    with _configuration(name):
        config = Config(str(root / ".dvc"))
        url = urlsplit(str(get_fs_config(config, name=_existing(config, name))["url"]))
    return None if url.scheme not in ("", "file") else Path(url.path)


def _existing(config: Mapping[str, Any], name: str | None) -> str:
    known = sorted(config["remote"])
    name = (name or config["core"].get("remote") or "").lower()
    if name in known:
        return name
    raise TransferError(
        f"remote {name!r}: DVC's configuration has none of this name."
        if name
        else "remote: no name was given, and core.remote of .dvc/config names no default.",
        f"Choose one of: {', '.join(known) or '(there is none)'}; or add one: "
        f"dvc remote add {name or 'NAME'} s3://BUCKET/PREFIX (docs/how-to/remotes.md shows all kinds).",
    )


@contextlib.contextmanager
def _configuration(name: str | None) -> Iterator[None]:
    """Name the remote and the file when DVC cannot make sense of its configuration."""
    from dvc.config import ConfigError
    from dvc_objects.fs.errors import ConfigError as OptionError

    try:
        yield
    except (ConfigError, OptionError, ValueError) as fault:  # ValueError: a URL that cannot be taken apart
        label = f"remote {name!r}: " if name else ""
        raise TransferError(f"{label}.dvc/config: {fault}", "Correct the option named above.") from fault
