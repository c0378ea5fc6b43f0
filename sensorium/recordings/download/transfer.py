"""Downloads one file over HTTP, whatever the line does: resumes by byte range, retries with backoff.

What has arrived stays in <target>.part and its origin in <target>.part.json, so that a killed
download goes on where it was (ranges: RFC 9110, section 14, https://www.rfc-editor.org/rfc/rfc9110#section-14).
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from sensorium.errors import TransferError
from sensorium.files import write_json

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have arrived and the size of the whole, where known."""
_CHUNK_BYTES = 1 << 16
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-\d+|\*)/(?:(?P<total>\d+)|\*)")


@dataclass(frozen=True)
class RetryPolicy:
    """How long a transfer waits and how often it tries."""

    attempts: int = 8
    """Attempts in a row without a new byte before it gives up."""
    connect_timeout: float = 20.0
    """Seconds to wait for a connection."""
    stall_timeout: float = 60.0
    """Seconds without a byte after which a connection is given up."""
    first_pause: float = 1.0
    """Seconds before the second attempt; the pause doubles with every attempt."""
    longest_pause: float = 60.0
    """Longest pause, seconds; also for a server that asks for a longer one."""

    @property
    def timeouts(self) -> tuple[float, float]:
        """As requests takes them."""
        return self.connect_timeout, self.stall_timeout


class _TransientError(Exception):
    """The attempt failed in a way that may pass."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        self.pause = pause
        super().__init__(reason)


def probe_size(url: str, policy: RetryPolicy) -> int | None:
    """Size of the file behind `url` in bytes, None where the server does not say."""
    try:
        response = requests.head(url, timeout=policy.timeouts, allow_redirects=True)
    except requests.RequestException:
        return None  # the transfer itself reports what is wrong with the line
    return _number(response, "Content-Length") if response.status_code == _OK else None


def _number(response: requests.Response, header: str) -> int | None:
    value = response.headers.get(header, "")
    return int(value) if value.isdigit() else None


class Transfer:
    """One file on its way to `target`."""

    def __init__(
        self, url: str, target: Path, policy: RetryPolicy, on_progress: Progress, stop: threading.Event
    ) -> None:
        """Prepare a transfer.

        Args:
            url: address of the file.
            target: final name; it appears when the file is complete.
            policy: when to try again.
            on_progress: called after each chunk.
            stop: ends the transfer when set; what has arrived stays.
        """
        self._url = url
        self._target = target
        self._part = target.with_name(f"{target.name}.part")
        self._origin = target.with_name(f"{target.name}.part.json")
        self._policy = policy
        self._on_progress = on_progress
        self._stop = stop

    @property
    def arrived(self) -> int:
        """Bytes that are already here."""
        return self._part.stat().st_size if self._part.exists() else 0

    def run(self) -> None:
        """Fetch the file, or what is missing of it.

        Raises:
            TransferError: the server refuses, the line stays dead, the disk is full, or `stop` was set.
        """
        self._target.parent.mkdir(parents=True, exist_ok=True)
        most, failures = self.arrived, 0
        with requests.Session() as session:
            # A former run may have brought all bytes and been killed before the last rename.
            while not 0 < self.arrived == self._known_origin().get("size"):
                try:
                    self._attempt(session)
                    break
                except _TransientError as fault:
                    failures = 0 if self.arrived > most else failures + 1
                    most = max(most, self.arrived)
                    self._pause(fault, failures)
        self._part.touch()  # an empty file arrives without a byte
        self._part.replace(self._target)
        self._origin.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget all that has arrived."""
        for path in (self._part, self._origin, self._target):
            path.unlink(missing_ok=True)

    def _pause(self, fault: _TransientError, failures: int) -> None:
        if failures >= self._policy.attempts:
            raise TransferError(
                f"{self._url}: no progress in {failures} attempts, the last one: {fault}.",
                f"Check the connection and run the command again; it goes on at byte {self.arrived}.",
            ) from fault
        pause = self._policy.first_pause * 2 ** max(failures - 1, 0) if fault.pause is None else fault.pause
        if self._stop.wait(min(pause, self._policy.longest_pause)):
            self._raise_stopped()

    def _raise_stopped(self) -> None:
        raise TransferError(f"{self._url}: stopped at byte {self.arrived}.", "Run the command again to go on there.")

    def _attempt(self, session: requests.Session) -> None:
        try:
            headers = self._headers()
            with session.get(self._url, headers=headers, stream=True, timeout=self._policy.timeouts) as response:
                total = self._admit(response)
                if total is None or self.arrived < total:
                    self._receive(response, total)
        except requests.exceptions.InvalidURL as fault:
            raise TransferError(f"{self._url}: not a valid address ({fault}).", "Correct the address.") from fault
        except requests.RequestException as fault:
            raise _TransientError(f"{type(fault).__name__}: {fault}") from fault
        if total is not None and self.arrived != total:
            raise _TransientError(f"the connection ended at byte {self.arrived} of {total}")

    def _known_origin(self) -> dict[str, Any]:
        """What the first answer said about the file; empty where there is nothing to go on from."""
        try:
            origin = json.loads(self._origin.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return origin if isinstance(origin, dict) and origin.get("url") == self._url else {}

    def _headers(self) -> dict[str, str]:
        """Ask for the rest of what is here, provided that it is still the same file."""
        headers = {"Accept-Encoding": "identity"}
        origin = self._known_origin()
        if not origin:
            self._part.unlink(missing_ok=True)
        if self.arrived:
            headers["Range"] = f"bytes={self.arrived}-"
            if origin.get("validator"):
                headers["If-Range"] = origin["validator"]
        return headers

    def _admit(self, response: requests.Response) -> int | None:
        """Judge an answer's head and make the partial file match it; returns the size of the whole."""
        status = response.status_code
        if status in _TRANSIENT_STATUS:
            pause = _number(response, "Retry-After")
            raise _TransientError(f"the server answered {status} {response.reason}", pause)
        if status in (_PARTIAL, _UNSATISFIABLE):
            return self._admit_rest(response)
        if status != _OK:
            raise TransferError(
                f"{self._url}: the server answered {status} {response.reason}.",
                "Check the mouse's name, and the mirror if SENSORIUM_DOWNLOAD_URL names one; "
                "or put the raw mouse into dataset.raw by hand.",
            )
        self._part.unlink(missing_ok=True)  # the server sends the whole file: ranges ignored, or another file
        total, etag = _number(response, "Content-Length"), response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        write_json(self._origin, {"url": self._url, "size": total, "validator": validator})
        return total

    def _admit_rest(self, response: requests.Response) -> int | None:
        """Check that an answer continues what is here, or says that nothing is missing."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        known = self._known_origin().get("size")
        total = int(match["total"]) if match and match["total"] else known
        first = int(match["first"]) if match and match["first"] else total
        if match is None or first != self.arrived or known not in (None, total):
            self._part.unlink(missing_ok=True)
            raise _TransientError("the server's file does not continue what has arrived")
        return total

    def _receive(self, response: requests.Response, total: int | None) -> None:
        try:
            with self._part.open("ab") as stream:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    stream.write(chunk)
                    self._on_progress(stream.tell(), total)
                    if self._stop.is_set():
                        stream.flush()
                        self._raise_stopped()
        except requests.RequestException:
            raise
        except OSError as fault:
            raise TransferError(
                f"{self._part}: cannot be written ({fault.strerror}).",
                f"Free space there and run the command again; it goes on at byte {self.arrived}.",
            ) from fault
