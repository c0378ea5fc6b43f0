"""Published models in a bucket of S3 or of a server that speaks its protocol.

Address and credentials come from where boto3 searches for them: `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, ~/.aws (https://boto3.amazonaws.com/v1/documentation/api/latest/guide/configuration.html).
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sensorium.errors import CheckpointError, ConfigError, TransferError
from sensorium.files import atomic_folder, tidy, waiting_lock
from sensorium.hub.release import CONFIG, ReleaseConfig, verify
from sensorium.paths import user_cache

_ATTEMPTS = 5
_SECONDS = 10
_MISSING = ("NoSuchKey", "404", "NoSuchBucket")
_DENIED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "401", "ExpiredToken")
_LOGIN = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
_SERVER = "Check the network and AWS_ENDPOINT_URL, then try again."


@dataclass(frozen=True)
class Bucket:
    """A prefix in a bucket; a revision is a prefix below it."""

    bucket: str
    prefix: str

    @classmethod
    def of(cls, address: str) -> Self:
        """Read an address.

        Raises:
            ConfigError: it names no bucket.
        """
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigError(f"{address}: names no bucket.", "Write s3://BUCKET/PREFIX.")
        return cls(bucket, prefix.strip("/"))

    def _key(self, revision: str | None, name: str) -> str:
        return "/".join(part for part in (self.prefix, revision, name) if part)

    def _label(self, revision: str | None) -> str:
        return f"s3://{self.bucket}/{self._key(revision, '')}".rstrip("/")

    def fetch(self, revision: str | None) -> Path:
        """Folder of the user's cache with the model, verified; fetched where it is not there yet."""
        with tempfile.TemporaryDirectory() as temporary:
            self._download(revision, CONFIG, Path(temporary))
            config = ReleaseConfig.read(Path(temporary))
        folder = _cache() / config.digest
        with waiting_lock(folder.with_name(f"{folder.name}.lock")):
            tidy(folder)
            if not _is_whole(folder):
                with atomic_folder(folder) as partial:
                    for name in [*config.files, CONFIG]:
                        self._download(revision, name, partial)
                    verify(partial, self._label(revision))
        return folder

    def _download(self, revision: str | None, name: str, folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(revision, name):
            _client().download_file(self.bucket, self._key(revision, name), str(path))

    def publish(self, folder: Path, revision: str | None) -> None:
        """Upload the files, config.json last; see `Place`."""
        from sensorium.hub.places import keeps

        with tempfile.TemporaryDirectory() as temporary:
            try:
                self._download(revision, CONFIG, Path(temporary))
                found = keeps(Path(temporary), folder, self._label(revision), revision)
            except _AbsentError:
                found = False
        if found:
            return
        client = _client()
        for name in [*ReleaseConfig.read(folder).files, CONFIG]:
            with self._explained(revision, name):
                client.upload_file(str(folder / name), self.bucket, self._key(revision, name))

    @contextlib.contextmanager
    def _explained(self, revision: str | None, name: str) -> Iterator[None]:
        """Turn every failure of S3 into one TransferError."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        label = f"{self._label(revision)}/{name}"
        try:
            yield
        except ClientError as fault:
            code = str(fault.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise _AbsentError(f"{label}: there is none.", "Check bucket, prefix and revision.") from fault
            raise TransferError(f"{label}: {fault}", _LOGIN if code in _DENIED else _SERVER) from fault
        except (BotoCoreError, Boto3Error) as fault:
            absent = "NoSuchBucket" in str(fault)
            raise TransferError(
                f"{label}: {fault}", "Create the bucket." if absent else f"{_SERVER} {_LOGIN}"
            ) from fault


class _AbsentError(TransferError):
    """An object or a bucket is not there."""


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def _cache() -> Path:
    """Folder of the user's in which fetched models are kept, each named by its digest."""
    return user_cache() / "models"


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as fault:
        raise TransferError(
            f"s3://: needs {fault.name}, which is not installed.", "Type `pip install 'sensorium[hub]'`."
        ) from fault
    retries = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    settings = Config(retries=retries, connect_timeout=_SECONDS, read_timeout=6 * _SECONDS)
    try:
        return boto3.client("s3", config=settings)
    except (BotoCoreError, ValueError) as fault:
        raise TransferError(f"s3://: {fault}", f"{_SERVER} {_LOGIN}") from fault
