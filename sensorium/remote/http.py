"""A remote behind a web server: DVC pulls from it, and a check only reads it."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import requests

from sensorium.errors import TransferError
from sensorium.remote.settings import RemoteSettings

_CHUNK = 1 << 20


class HttpStore:
    """A remote behind a web server: DVC pulls from it; it cannot be listed or cleaned up, so it is only read."""

    def __init__(self, settings: RemoteSettings, known: Sequence[str], timeout: float) -> None:
        self._settings = settings
        self._known = known
        self._session = requests.Session()
        self._timeout = timeout
        options = settings.options
        if options.get("auth") == "basic":
            self._session.auth = (options.get("user", ""), options.get("password", ""))
        elif options.get("auth") == "custom" and "custom_auth_header" in options:
            self._session.headers[options["custom_auth_header"]] = options.get("password", "")
        self._session.verify = options.get("ssl_verify", True)

    def connect(self) -> str:
        """Reach the server; that it lists nothing at the remote's root is no fault."""
        self._get("").close()
        return self._settings.url

    def sample(self) -> str | None:
        """Key of the first of this project's objects that the server has."""
        for key in self._known:
            answer = self._get(key)
            with answer:
                if answer.ok:
                    return key
        return None

    def stream(self, key: str) -> Iterator[bytes] | None:
        """Content of an object."""
        answer = self._get(key)
        if not answer.ok:
            answer.close()
            return None
        return self._blocks(answer)

    def _blocks(self, answer: Any) -> Iterator[bytes]:
        with self._explained(), answer:
            yield from answer.iter_content(_CHUNK)

    def _get(self, key: str) -> Any:
        url = f"{self._settings.url.rstrip('/')}/{key}"
        with self._explained():
            answer = self._session.get(url, stream=True, timeout=self._timeout)
        try:
            self._refuse(answer, url)
        except TransferError:
            answer.close()
            raise
        return answer

    def _refuse(self, answer: Any, url: str) -> None:
        if answer.status_code in (401, 403):
            local = f"dvc remote modify --local {self._settings.name}"
            raise TransferError(
                f"remote {self._settings.name!r}: {url} refuses access (HTTP {answer.status_code}).",
                f"Set user and password: {self._settings.set_option('auth', 'basic')}; {local} user USER; "
                f"{local} password PASSWORD",
            )
        if answer.status_code >= 500:
            raise TransferError(
                f"remote {self._settings.name!r}: {url} answers HTTP {answer.status_code}.", "Try again later."
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        name, url = self._settings.name, self._settings.url
        remedy = f"Check that the server runs and correct its address: {self._settings.set_option('url', 'URL')}"
        try:
            yield
        except requests.Timeout as fault:
            raise TransferError(
                f"remote {name!r}: {url} gave no answer within {self._timeout:g} s.",
                f"{remedy} A slow server: --timeout SECONDS.",
            ) from fault
        except requests.RequestException as fault:
            raise TransferError(f"remote {name!r}: {url} cannot be reached: {fault}", remedy) from fault
