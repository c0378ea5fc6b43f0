"""A remote in a bucket, reached with boto3."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

from sensorium.errors import TransferError
from sensorium.remote.faults import Target, explained, is_missing_object
from sensorium.remote.settings import OBJECTS, RemoteSettings

_CHUNK = 1 << 20


class S3Store:
    """A remote in a bucket of Amazon S3 or of a server that speaks its protocol."""

    def __init__(self, settings: RemoteSettings, timeout: float) -> None:
        self._settings = settings
        bucket, _, prefix = settings.url.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix.strip("/")
        endpoint = settings.options.get("endpointurl") or os.environ.get("AWS_ENDPOINT_URL") or "Amazon S3"
        self._target = Target(settings, bucket, endpoint, "", timeout)

    def connect(self) -> str:
        """Sign in and list the bucket, as DVC does before every transfer."""
        with explained(self._target, "reach"):
            session = _session(self._settings)
            key = _describe_key(session)
            self._target = Target(self._settings, self._bucket, self._target.endpoint, key, self._target.timeout)
            self._client = _client(session, self._settings, self._target.timeout)
        with explained(self._target, "list"):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._key(""), MaxKeys=1)
        return f"{self._settings.url} at {self._target.endpoint}"

    def sample(self) -> str | None:
        """Key of the first object below the remote's URL."""
        with explained(self._target, "list"):
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._key(OBJECTS + "/"), MaxKeys=1)
        keys = [str(entry["Key"]) for entry in page.get("Contents", [])]
        return keys[0].removeprefix(self._key("")) if keys else None

    def stream(self, key: str) -> Iterator[bytes] | None:
        """Content of an object."""
        try:
            with explained(self._target, "read from"):
                body = self._client.get_object(Bucket=self._bucket, Key=self._key(key))["Body"]
        except TransferError as fault:
            if is_missing_object(fault):
                return None
            raise
        return self._blocks(body)

    def _blocks(self, body: Any) -> Iterator[bytes]:
        with explained(self._target, "read from"), contextlib.closing(body):
            yield from body.iter_chunks(_CHUNK)

    def write(self, key: str, source: BinaryIO) -> None:
        """Create or replace an object, with the encryption and access rules that the remote asks for."""
        wanted = {"ServerSideEncryption": "sse", "SSEKMSKeyId": "sse_kms_key_id", "ACL": "acl"}
        options = self._settings.options
        extra = {name: options[option] for name, option in wanted.items() if options.get(option)}
        with explained(self._target, "write to"):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=source, **extra)

    def delete(self, key: str) -> None:
        """Remove an object."""
        with explained(self._target, "write to (delete)"):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key


def _session(settings: RemoteSettings) -> Any:
    """A boto3 session with the remote's own credentials, or those of the environment.

    Raises:
        TransferError: the remote has one half of its credentials.
    """
    options = settings.options
    given = [key for key in ("access_key_id", "secret_access_key") if options.get(key)]
    if len(given) == 1:
        missing = "secret_access_key" if given == ["access_key_id"] else "access_key_id"
        raise TransferError(
            f"remote {settings.name!r}: {given[0]} is set, but not {missing}.",
            f"Set it too: {settings.set_option(missing, 'VALUE', local=True)}",
        )
    core = botocore.session.Session(profile=options.get("profile"))
    for option, variable in (("credentialpath", "credentials_file"), ("configpath", "config_file")):
        if options.get(option):
            core.set_config_variable(variable, str(options[option]))
    return boto3.Session(
        aws_access_key_id=options.get("access_key_id"),
        aws_secret_access_key=options.get("secret_access_key"),
        aws_session_token=options.get("session_token"),
        region_name=options.get("region"),
        botocore_session=core,
    )


def _describe_key(session: Any) -> str:
    """Which key is used and where it was found; the identifier is shortened, the secret never shown."""
    credentials = session.get_credentials()
    if credentials is None:
        return ""
    origin = {"explicit": "DVC's configuration", "env": "AWS_ACCESS_KEY_ID"}.get(credentials.method, credentials.method)
    return f"{credentials.access_key[:4]}… (from {origin})"


def _client(session: Any, settings: RemoteSettings, timeout: float) -> Any:
    """An S3 client that gives up after `timeout` seconds and does not try again."""
    config = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
    if settings.options.get("allow_anonymous_login"):
        config = config.merge(Config(signature_version=UNSIGNED))
    return session.client(
        "s3",
        endpoint_url=settings.options.get("endpointurl"),
        use_ssl=settings.options.get("use_ssl", True),
        verify=settings.options.get("ssl_verify"),
        config=config,
    )
