"""ASGI middleware that refuses requests before their bodies are read: by the token, by size, count and time."""

import asyncio
import contextlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward.web.meters import Meters

SCORE_PATH = "/v1/score"
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered without a token, for health checks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """Limits of score requests."""

    max_body_bytes: int = 8 * 2**20
    body_s: float = 30.0
    """Seconds in which a whole body must arrive."""
    max_held_bytes: int = 64 * 2**20
    """Bodies of all requests together, from their first byte to the response."""
    max_requests: int = 256
    """Requests at a time."""
    max_samples: int = 4096
    """Samples being scored at a time."""


class RefusedError(Exception):
    """A request that is answered with a `Refusal`."""

    def __init__(self, status: int, field: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.field, self.headers = status, field, dict(headers or {})

    def response(self) -> JSONResponse:
        return JSONResponse({"field": self.field, "message": str(self)}, self.status, self.headers)


def busy() -> RefusedError:
    """The refusal of a request above the limits."""
    return RefusedError(429, "body", "the service is busy; retry later", {"Retry-After": "1"})


async def refuse(error: RefusedError, receive: Receive, send: Send, *, limits: RequestLimits) -> None:
    """Answers a request whose body was not read to its end, and closes the connection.

    Most clients send the whole body before they read the response, and would lose it. So up to twice the size of an
    allowed body is received and dropped, within the time for one.
    """
    response = error.response()
    response.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": error.status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    num_dropped, is_last = 0, False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limits.body_s):
            while not is_last and num_dropped < 2 * limits.max_body_bytes:
                message = await receive()
                num_dropped += len(message.get("body", b""))
                is_last = not message.get("more_body", False)
    await send({"type": "http.response.body"})


class TokenGate:
    """Refuses requests without the bearer token."""

    def __init__(self, app: ASGIApp, *, token: str | None, limits: RequestLimits) -> None:
        self._app, self._limits = app, limits
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._expected is not None and scope["path"] not in OPEN_PATHS:
            shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(shown, self._expected):
                message, headers = "must be the service's bearer token", {"WWW-Authenticate": "Bearer"}
                error = RefusedError(401, "authorization", message, headers)
                await refuse(error, receive, send, limits=self._limits)
                return
        await self._app(scope, receive, send)


class BodyGate:
    """Receives the bodies of score requests within the limits, refuses those beyond, and counts all by status."""

    def __init__(self, app: ASGIApp, *, limits: RequestLimits, meters: Meters) -> None:
        self._app, self._limits, self._meters = app, limits, meters
        # one body always fits
        self._max_held_bytes = max(limits.max_held_bytes, limits.max_body_bytes)
        self._num_requests = self._num_held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", SCORE_PATH):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def metered(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._meters.requests.labels(str(message["status"])).inc()
                self._meters.request_seconds.observe(time.perf_counter() - started)
            await send(message)

        try:
            await self._admit(scope, receive, metered)
        except RefusedError as error:
            await refuse(error, receive, metered, limits=self._limits)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        self._num_requests += 1
        try:
            self._check_size(int(Headers(scope=scope).get("content-length", "0")))
            if self._num_requests > self._limits.max_requests:
                raise busy()
            await self._read(receive, body)
            whole: list[Message] = [{"type": "http.request", "body": bytes(body)}]

            async def replay() -> Message:
                return whole.pop() if whole else await receive()

            await self._app(scope, replay, send)
        finally:
            self._num_requests -= 1
            self._num_held_bytes -= len(body)

    def _check_size(self, num_bytes: int, *, num_held: int = 0) -> None:
        if num_bytes > self._limits.max_body_bytes:
            raise RefusedError(413, "body", f"must have <= {self._limits.max_body_bytes} bytes")
        if self._num_held_bytes + num_bytes - num_held > self._max_held_bytes:
            raise busy()

    async def _read(self, receive: Receive, body: bytearray) -> None:
        """Appends to `body`, which counts as held."""
        is_last = False
        try:
            async with asyncio.timeout(self._limits.body_s):
                while not is_last:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400, "body", "must be sent to its end")
                    part = message.get("body", b"")
                    self._check_size(len(body) + len(part), num_held=len(body))
                    body += part
                    self._num_held_bytes += len(part)
                    is_last = not message.get("more_body", False)
        except TimeoutError:
            raise RefusedError(408, "body", f"must arrive within {self._limits.body_s:g} s") from None
