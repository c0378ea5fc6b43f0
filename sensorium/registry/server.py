"""The HTTP server of a registered model: MLflow's own, with limits in front of it.

MLflow's server reads a request of any size, starts every one that comes, and answers 500 where its parser raises what
it does not expect. Here a request that is too large, too slow or one too many is refused before MLflow sees it, with
4xx and the reason, and memory is bounded by the requests that are being answered.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import Request
from fastapi.responses import JSONResponse

from sensorium.paths import Paths
from sensorium.registry.registered import find_registered
from sensorium.tracking.store import TrackingStore, mlflow_errors

INVOCATIONS = "/invocations"
_TIMEOUT, _TIMEOUT_SECONDS = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "600"
_KEEP_ALIVE_SECONDS = 60
"""Clients that reuse a connection must not meet one that is being closed."""
_JSON = "application/json"
_UNREADABLE = (RecursionError, ValueError, TypeError, LookupError, AttributeError)
"""What MLflow's parser raises beyond its own exceptions, by nesting, numbers of thousands of digits, other types."""


@dataclass(frozen=True)
class Limits:
    """What a server accepts."""

    megabytes: int = 32
    """Size of a request's body, MiB. A published trial takes 5 to 15."""
    at_once: int = 2
    """Requests that are read and predicted at the same time."""
    waiting: int = 64
    """Requests that wait, unread, for one of these places."""
    seconds: float = 60.0
    """Time in which a client must have sent a body."""


class Limiter:
    """ASGI middleware that admits requests to the model, each with its whole body."""

    def __init__(self, app: Any, limits: Limits) -> None:
        """Take the application behind it."""
        self._app, self._limits = app, limits
        self._places = asyncio.Semaphore(limits.at_once)
        self._present = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http" or scope["path"] != INVOCATIONS or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal({name.lower(): value for name, value in scope["headers"]})
        if refusal is not None:
            await self._drain(receive)
            await refusal(scope, receive, send)
            return
        self._present += 1
        try:
            async with self._places:
                await self._admit(scope, receive, send)
        finally:
            self._present -= 1

    def _refusal(self, headers: dict[bytes, bytes]) -> JSONResponse | None:
        """Why a request is not even read; None where it is."""
        kind, length = headers.get(b"content-type", b"").decode("latin-1"), headers.get(b"content-length", b"0")
        if kind.partition(";")[0].strip().lower() != _JSON:
            return refuse(415, f"Content-Type: {kind!r} is not understood. Send JSON, with Content-Type: {_JSON}.")
        if length.isdigit() and int(length) > self._limits.megabytes << 20:
            return self._too_large()
        if self._present >= self._limits.at_once + self._limits.waiting:
            return refuse(
                429,
                f"{self._present} other requests are waiting. Send this one again in a second, or send fewer at once.",
                {"Retry-After": "1"},
            )
        return None

    def _too_large(self) -> JSONResponse:
        return refuse(
            413,
            f"The request is larger than {self._limits.megabytes} MiB. Send fewer frames, round the numbers, or start "
            "the server with a larger --max-megabytes.",
        )

    async def _admit(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body, then let the application answer."""
        try:
            body = await asyncio.wait_for(self._read(receive), self._limits.seconds)
        except TimeoutError:
            late = (
                f"The request did not arrive within {self._limits.seconds:g} s. Send it again on a faster connection."
            )
            await refuse(408, late)(scope, receive, send)
            return
        if body is None:
            await self._drain(receive)
            await self._too_large()(scope, receive, send)
            return
        whole = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Any) -> bytes | None:
        """The body; None as soon as it is larger than allowed, or its client is gone."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect" or len(body) > self._limits.megabytes << 20:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _drain(self, receive: Any) -> None:
        """Let a client finish sending, since it reads the answer only then; nothing is kept."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            return


def refuse(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer in the form of MLflow's own."""
    return JSONResponse({"error_code": "BAD_REQUEST", "message": message}, status, headers)


async def _unreadable(_request: Request, fault: Exception) -> JSONResponse:
    return refuse(400, f"The request cannot be read: {type(fault).__name__}: {str(fault)[:200]}.")


def application(model: Any, limits: Limits) -> Any:
    """MLflow's application for a loaded model, with limits.

    Args:
        model: what `mlflow.pyfunc.load_model` returned.
        limits: what the server accepts.
    """
    from mlflow.pyfunc import scoring_server

    os.environ.setdefault(_TIMEOUT, _TIMEOUT_SECONDS)  # what waits is not counted, and a long trial takes minutes
    made = scoring_server.init(model)
    for fault in _UNREADABLE:
        made.add_exception_handler(fault, _unreadable)
    made.add_middleware(Limiter, limits=limits)
    return made


def serve(paths: Paths, address: str, host: str, port: int, limits: Limits) -> None:
    """Serve a registered model until Ctrl-C.

    Args:
        paths: the project, whose registry is asked.
        address: such as models:/sensorium-pair@champion.
        host: address to listen on.
        port: port to listen on.
        limits: what the server accepts.

    Raises:
        TrackingError: no such version, or files of it are missing or damaged.
    """
    import mlflow

    find_registered(address, paths)
    with mlflow_errors(paths), TrackingStore.of(paths).in_force():
        model = mlflow.pyfunc.load_model(address)
    uvicorn.run(
        application(model, limits), host=host, port=port, log_level="warning", timeout_keep_alive=_KEEP_ALIVE_SECONDS
    )
