"""What went wrong with a remote, in words that name the option to change.

Servers, botocore and aiohttp report the same mistake in many ways; each is led back to one problem and one remedy.
Codes of S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sensorium.errors import TransferError

if TYPE_CHECKING:
    from dvc.data_cloud import Remote

_CREDENTIALS = (
    "Set them for this clone (dvc remote modify --local {name} access_key_id KEY; dvc remote modify --local {name} "
    "secret_access_key SECRET) or in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
)
_ADDRESS = "Check that the server runs and correct its address: dvc remote modify {name} {address} URL"
_URL = "dvc remote modify {name} url s3://BUCKET/PREFIX"
_LOGIN = (
    "Set user and password: dvc remote modify {name} auth basic; dvc remote modify --local {name} user USER; "
    "dvc remote modify --local {name} password PASSWORD"
)
_AUTHORITY = "Trust its authority: dvc remote modify {name} ssl_verify /path/to/ca.pem"
_SILENT = "{server} gave no answer within {timeout:g} s."
_READ_RIGHTS = "Ask for s3:ListBucket and s3:GetObject, or use other credentials. " + _CREDENTIALS
_WRITE_RIGHTS = "Ask for s3:PutObject and s3:DeleteObject, or add --read-only where you only pull from it."
_FOLDER_RIGHTS = "Correct its permissions or free space, or add --read-only where you only pull from it."

_DENIED = ("AccessDenied", "AllAccessDisabled", "Forbidden", "403")
_UNKNOWN_KEY = ("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException")
_EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
_REGION = "Name it: dvc remote modify {name} region REGION"
_WRONG_CLOCK = ("RequestTimeTooSkewed", "RequestExpired")
_FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507")
_BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500")
_ANSWERS = (
    (_DENIED, "{key} may not {action} bucket {bucket!r}", _READ_RIGHTS),
    (_UNKNOWN_KEY, "{server} does not know {key}", _CREDENTIALS),
    (("SignatureDoesNotMatch",), "secret_access_key does not belong to {key}", _CREDENTIALS),
    (_EXPIRED, "session_token is expired or invalid", "Log in again, or use credentials without a session token."),
    (("NoSuchBucket",), "bucket {bucket!r} does not exist at {server}", "Create it, or correct its name: " + _URL),
    (_OTHER_REGION, "bucket {bucket!r} is in another region: {fault}", _REGION),
    (_WRONG_CLOCK, "this machine's clock is wrong", "Set the clock (NTP) and try again."),
    (_FULL, "the storage is full", "Free space on the server, then push again."),
    (_BUSY, "{server} cannot {action} now", "Try again later."),
    (("HTTP 401", "HTTP 403"), "{server} refuses access", _LOGIN),
)
"""Codes of a server's answer, the problem, and the remedy."""


@contextlib.contextmanager
def explained(remote: "Remote", action: str) -> Iterator[None]:
    """Turn every failure of a remote's file system into one TransferError.

    Args:
        remote: what is used.
        action: what is tried, such as `write to`; the name of the bucket, server or folder follows it.

    Raises:
        TransferError: names the remote or key, what is wrong and what to do.
        FileNotFoundError: an object that is read is not there.
    """
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (OSError, ValueError, BotoCoreError, ClientError, HttpError) as fault:
        code = _code(fault)
        if action == "read from" and isinstance(fault, FileNotFoundError) and code != "NoSuchBucket":
            raise
        problem, remedy = _explain(remote, action, fault, code)
        facts = {
            "name": remote.name,
            "server": server(remote),
            "address": "endpointurl" if remote.fs.protocol == "s3" else "url",
            "bucket": remote.path.partition("/")[0],
            "key": _key(remote) if code else "",
            "timeout": remote.config["read_timeout"],
            "action": action,
            "code": code,
            "fault": getattr(fault, "strerror", None) or fault,
        }
        raise TransferError(f"remote {remote.name!r}: {problem.format(**facts)}", remedy.format(**facts)) from fault


def _code(fault: BaseException) -> str:
    """Code of a server's answer; s3fs keeps the answer as the cause. Empty for every other fault."""
    if status := getattr(fault, "status", None):
        return f"HTTP {status}"
    answer = getattr(fault, "response", None) or getattr(fault.__cause__, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _explain(remote: "Remote", action: str, fault: Exception, code: str) -> tuple[str, str]:
    """Templates of problem and remedy."""
    import aiohttp
    from botocore import exceptions as boto

    for codes, problem, remedy in _ANSWERS:
        if code in codes:
            writing = codes == _DENIED and action.startswith("write")
            return f"{problem} ({code}).", _WRITE_RIGHTS if writing else remedy
    if remote.fs.protocol == "local":
        return "cannot {action} {server}: {fault}.", _FOLDER_RIGHTS
    kinds: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
        ((boto.NoCredentialsError, boto.PartialCredentialsError), "no credentials: {fault}.", _CREDENTIALS),
        ((boto.ConnectTimeoutError, boto.ReadTimeoutError, TimeoutError), _SILENT, _ADDRESS + ", or --timeout."),
        ((boto.SSLError, aiohttp.ClientSSLError), "{server} does not prove who it is: {fault}", _AUTHORITY),
        ((aiohttp.ClientResponseError,), "{server} answers {code}: {fault}", "Try again later."),
        ((boto.ParamValidationError,), "url: {fault}", "Correct it: " + _URL),
    )
    for types, problem, remedy in kinds:
        if isinstance(fault, types):
            return problem, remedy
    if isinstance(fault, boto.ConnectionError | boto.HTTPClientError | aiohttp.ClientError):
        return "{server} cannot be reached: {fault}", _ADDRESS
    # An answer that is not S3's, a malformed address, a profile that does not exist.
    return "cannot {action} {server}: {fault}", _ADDRESS


def server(remote: "Remote") -> str:
    """Address of the server; the path of a folder."""
    if remote.fs.protocol != "s3":
        return str(remote.path)
    return str(remote.config.get("endpointurl") or os.environ.get("AWS_ENDPOINT_URL") or "Amazon S3")


def _key(remote: "Remote") -> str:
    """Which key is used and where it was found; the identifier is shortened, the secret never shown."""
    from botocore.session import Session

    key, origin = remote.config.get("access_key_id"), "DVC's configuration"
    if not key and not remote.config.get("allow_anonymous_login"):
        found = Session(profile=remote.config.get("profile")).get_credentials()
        if found is not None:
            key, origin = found.access_key, "AWS_ACCESS_KEY_ID" if found.method == "env" else found.method
    return f"access_key_id {key[:4]}… (from {origin})" if key else "anonymous access"
