"""What went wrong with an S3 endpoint, in words that name the key to change.

Servers and botocore report the same mistake in many ways; each is led back to one problem and one remedy.
Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sensorium.errors import TransferError
from sensorium.remote.settings import RemoteSettings

_UNKNOWN_KEY = {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"}
_WRONG_SECRET = {"SignatureDoesNotMatch"}
_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403"}
_NO_BUCKET = {"NoSuchBucket"}
_NO_OBJECT = {"NoSuchKey", "404", "NotFound"}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_WRONG_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}


@dataclass(frozen=True)
class Target:
    """The bucket behind a remote, as messages name it."""

    settings: RemoteSettings
    bucket: str
    endpoint: str
    """Address of the server; `Amazon S3` when the remote names none."""
    key: str
    """Access key's identifier, shortened, and where it was found; empty without credentials."""
    timeout: float
    """Seconds that the server was given to answer."""

    @property
    def label(self) -> str:
        """How a message begins."""
        return f"remote {self.settings.name!r}"

    @property
    def credentials_remedy(self) -> str:
        """How to give credentials without git seeing them."""
        local = f"dvc remote modify --local {self.settings.name}"
        return (
            f"Set them for this clone ({local} access_key_id KEY; {local} secret_access_key SECRET) or in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )

    @property
    def endpoint_remedy(self) -> str:
        """How to correct the address."""
        return f"Check that the server runs and correct its address: {self.settings.set_option('endpointurl', 'URL')}"


def _refused(target: Target, action: str, code: str, message: str) -> TransferError:
    """The error for an answer of the server that is a refusal."""
    label, bucket = target.label, target.bucket
    if code in _UNKNOWN_KEY:
        problem = f"{label}: {target.endpoint} does not know access_key_id {target.key} ({code})."
        return TransferError(problem, target.credentials_remedy)
    if code in _WRONG_SECRET:
        problem = f"{label}: secret_access_key does not belong to access_key_id {target.key} ({code})."
        return TransferError(problem, target.credentials_remedy)
    if code in _EXPIRED:
        problem = f"{label}: session_token is expired or invalid ({code})."
        return TransferError(problem, "Log in again, or use credentials without a session token.")
    if code in _DENIED:
        return _denied(target, action, code)
    if code in _NO_BUCKET:
        problem = f"{label}: bucket {bucket!r} does not exist at {target.endpoint} ({code})."
        url = target.settings.set_option("url", "s3://BUCKET/PREFIX")
        return TransferError(problem, f"Create the bucket, or correct its name: {url}")
    if code in _WRONG_REGION:
        problem = f"{label}: bucket {bucket!r} is in another region ({code}: {message})."
        return TransferError(problem, f"Name its region: {target.settings.set_option('region', 'REGION')}")
    if code in _WRONG_CLOCK:
        return TransferError(f"{label}: this machine's clock is wrong ({code}).", "Set the clock (NTP) and try again.")
    if code in _FULL:
        return TransferError(f"{label}: the store is full ({code}).", "Free space on the server, then push again.")
    if code in _BUSY:
        return TransferError(f"{label}: {target.endpoint} cannot {action} now ({code}).", "Try again later.")
    return TransferError(
        f"{label}: cannot {action}: {code}: {message}", "docs/how-to/remotes.md lists what a remote needs."
    )


def _denied(target: Target, action: str, code: str) -> TransferError:
    who = f"access_key_id {target.key}" if target.key else "anonymous access"
    problem = f"{target.label}: {who} may not {action} bucket {target.bucket!r} ({code})."
    if action.startswith("write"):
        return TransferError(
            problem, "Ask for s3:PutObject and s3:DeleteObject, or add --read-only where you only pull from it."
        )
    if target.key:
        return TransferError(
            problem, f"Ask for s3:ListBucket and s3:GetObject, or use other credentials. {target.credentials_remedy}"
        )
    return TransferError(problem, target.credentials_remedy)


@contextlib.contextmanager
def explained(target: Target, action: str) -> Iterator[None]:
    """Turn every failure of a call to S3 into one TransferError.

    Args:
        target: what was called.
        action: what the call tried, such as `write to`; the bucket's name follows it.

    Raises:
        TransferError: names the remote or key, what is wrong and what to do.
    """
    from botocore import exceptions as boto

    label = target.label
    try:
        yield
    except TransferError:
        raise
    except boto.ClientError as fault:
        error = fault.response.get("Error", {})
        code, message = str(error.get("Code", "")), str(error.get("Message", fault))
        raise _refused(target, action, code, message) from fault
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as fault:
        raise TransferError(f"{label}: no credentials: {fault}.", target.credentials_remedy) from fault
    except (boto.ConnectTimeoutError, boto.ReadTimeoutError) as fault:
        problem = f"{label}: {target.endpoint} gave no answer within {target.timeout:g} s."
        raise TransferError(problem, f"{target.endpoint_remedy} A slow server: --timeout SECONDS.") from fault
    except boto.SSLError as fault:
        option = target.settings.set_option("ssl_verify", "/path/to/ca.pem")
        raise TransferError(
            f"{label}: {target.endpoint} does not prove who it is: {fault}", f"Trust its authority: {option}"
        ) from fault
    except (boto.ConnectionError, boto.HTTPClientError) as fault:
        raise TransferError(f"{label}: {target.endpoint} cannot be reached: {fault}", target.endpoint_remedy) from fault
    except boto.ParamValidationError as fault:
        url = target.settings.set_option("url", "s3://BUCKET/PREFIX")
        raise TransferError(f"{label}: url: {fault}", f"Correct it: {url}") from fault
    except (boto.BotoCoreError, ValueError) as fault:
        # An answer that is not S3's, a malformed address, a profile that does not exist.
        raise TransferError(f"{label}: cannot {action} {target.endpoint}: {fault}", target.endpoint_remedy) from fault


def is_missing_object(fault: TransferError) -> bool:
    """Whether the error says that one object is not there."""
    from botocore.exceptions import ClientError

    cause = fault.__cause__
    return isinstance(cause, ClientError) and str(cause.response.get("Error", {}).get("Code")) in _NO_OBJECT
