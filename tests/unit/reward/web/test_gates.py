"""The middleware of the reward service: what is refused is answered before its body is received."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from common.config.reward import RewardConfig
from reward.service import RewardService
from reward.web.app import create_app
from reward.web.gates import RequestLimits

TOKEN = "a-token-of-enough-letters"


class Exchange:
    """One score request, and what the application did with it."""

    def __init__(self, *headers: tuple[str, str], parts: Sequence[bytes] = ()) -> None:
        lines = (("content-type", "application/json"), *headers)
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/score",
            "raw_path": b"/v1/score",
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in lines],
        }
        self.events: list[str] = []
        self.parts = list(parts)
        self.status = 0
        self.body = b""
        self.has_paused = asyncio.Event()
        """Set once all parts are sent."""
        self.may_end = asyncio.Event()
        """After the last part, the client waits for this and disconnects: its body is never whole."""

    async def receive(self) -> dict[str, Any]:
        """The next part of the body."""
        self.events.append("receive")
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": True}
        self.has_paused.set()
        await self.may_end.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Keeps what is answered."""
        self.events.append("send")
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")

    async def through(self, app: Any) -> None:
        """Has it answered."""
        await app(self.scope, self.receive, self.send)


def app_with(limits: RequestLimits, *, token: str | None = None) -> Any:
    """An application over the default rewards."""
    return create_app(RewardService(RewardConfig()), token=token, media_root=None, limits=limits)


@pytest.mark.parametrize(
    ("headers", "limits", "token", "status", "field"),
    [
        ((), RequestLimits(), TOKEN, 401, "authorization"),
        ((("authorization", f"Bearer {TOKEN}x"),), RequestLimits(), TOKEN, 401, "authorization"),
        ((("content-length", "101"),), RequestLimits(max_body_bytes=100), None, 413, "body"),
        ((), RequestLimits(max_requests=0), None, 429, "body"),
    ],
)
def test_a_request_is_refused_before_its_body_is_received(
    headers: tuple[tuple[str, str], ...], limits: RequestLimits, token: str | None, status: int, field: str
) -> None:
    async def run() -> Exchange:
        exchange = Exchange(*headers, parts=[b"a"])
        exchange.may_end.set()
        await exchange.through(app_with(limits, token=token))
        return exchange

    exchange = asyncio.run(run())
    assert exchange.status == status
    assert json.loads(exchange.body)["field"] == field
    assert exchange.events[:3] == ["send", "send", "receive"]


@pytest.mark.parametrize(
    ("second", "events"),
    [
        # before it is received
        (lambda: Exchange(("content-length", "600")), ["send", "send", "receive"]),
        (lambda: Exchange(parts=[b"a" * 600]), ["receive", "send", "send"]),
    ],
)
def test_a_body_that_cannot_be_held_beside_the_others_is_refused(
    second: Callable[[], Exchange], events: list[str]
) -> None:
    async def run() -> tuple[Exchange, Exchange]:
        app = app_with(RequestLimits(max_body_bytes=1000, max_held_bytes=1000))
        first, late = Exchange(parts=[b"a" * 600]), second()
        async with asyncio.TaskGroup() as group:
            group.create_task(first.through(app))
            await first.has_paused.wait()
            late.may_end.set()
            await late.through(app)
            first.may_end.set()
        return first, late

    first, late = asyncio.run(run())
    assert (late.status, late.events[:3]) == (429, events)
    assert first.status == 400


def test_a_client_that_disconnects_leaves_its_place_and_its_bytes_to_others() -> None:
    limits = RequestLimits(max_requests=1, max_body_bytes=100, max_held_bytes=100)
    body = json.dumps({"samples": [{"completion": "a" * 50}]}).encode()

    async def run() -> list[int]:
        app, statuses = app_with(limits), []
        for parts in ([body], [body], [b"a" * 101]):
            exchange = Exchange(parts=parts)
            exchange.may_end.set()
            await exchange.through(app)
            statuses.append(exchange.status)
        whole = Exchange()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        await app(whole.scope, receive, whole.send)
        return [*statuses, whole.status]

    assert asyncio.run(run()) == [400, 400, 413, 200]


def test_of_a_refused_body_a_bounded_part_is_received() -> None:
    async def run(parts: list[bytes], limits: RequestLimits) -> Exchange:
        exchange = Exchange(parts=parts)
        await exchange.through(app_with(limits, token=TOKEN))
        return exchange

    by_size = asyncio.run(run([b"a" * 10] * 1000, RequestLimits(max_body_bytes=100)))
    assert (by_size.status, by_size.events.count("receive")) == (401, 20)
    by_time = asyncio.run(run([b"a"], RequestLimits(body_s=0.05)))
    assert (by_time.status, by_time.events.count("receive")) == (401, 2)
