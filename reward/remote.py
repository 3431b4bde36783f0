"""A reward behind `POST /v1/score` of another service."""

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

import httpx
from pydantic import ValidationError

from common.config.address import shown_url
from common.config.reward import HttpRewardConfig
from common.errors import ConfigError
from reward.channel import Channel, ChannelLostError
from reward.outcome import FaultKind, Outcome, RewardFault, checked
from reward.pool import PooledReward
from reward.request import RewardRequest, RewardResult
from reward.wire import ScoreReply, sample_of

MAX_REPLY_BYTES = 16 * 2**20
MIN_RETRY_S = 0.1
"""Between two requests, whatever a service that is busy says."""


class HttpChannel(Channel):
    """A service: its configured address and nowhere else, whatever it answers."""

    def __init__(self, config: HttpRewardConfig, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.takes_groups, self.concurrency = True, config.max_concurrency
        self._shown = shown_url(config.url)
        self.decision = f"reward {config.name}: the service at {self._shown} is asked, a group at a time"
        self._config, self._transport = config, transport
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Reads the token.

        Raises:
            ConfigError: it is not there.
        """
        headers: dict[str, str] = {}
        if self._config.token_env is not None:
            headers["Authorization"] = f"Bearer {_token(self._config)}"
        self._client = httpx.AsyncClient(
            headers=headers,
            # the pool's deadline counts
            timeout=None,
            follow_redirects=False,
            # neither proxies nor passwords of the environment
            trust_env=False,
            limits=httpx.Limits(max_connections=self.concurrency),
            transport=self._transport,
        )

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call, which waits as often as it is told to come again.

        Raises:
            ChannelLostError: it cannot be reached.
        """
        samples = [sample_of(r, with_paths=self._config.send_paths) | {"group": "asked"} for r in requests]
        body = {"samples": samples}
        assert self._client is not None
        while True:
            try:
                async with self._client.stream("POST", f"{self._config.url}/v1/score", json=body) as reply:
                    content = await _read(reply)
            except httpx.HTTPError as error:
                raise ChannelLostError(f"{self._shown}: {type(error).__name__}: {error}") from error
            wait_s = _retry_after_s(reply)
            if wait_s is None:
                break
            # the deadline of the call goes on
            await asyncio.sleep(wait_s)
        if content is None:
            return self._failed(f"answered with more than {MAX_REPLY_BYTES} bytes", requests)
        if reply.is_client_error and reply.status_code not in (408, 429):
            # the same again would be refused again
            return self._failed(f"answered {reply.status_code}: {_shown(content)}", requests, kind="refused")
        if not reply.is_success:
            return self._failed(f"answered {reply.status_code}: {_shown(content)}", requests)
        return self._outcomes(content, requests)

    def end(self) -> None:
        """Connections close with the client."""
        self._client = None

    def _outcomes(self, content: bytes, requests: Sequence[RewardRequest]) -> list[Outcome]:
        try:
            results = ScoreReply.model_validate_json(content).results
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            return self._failed(f"must answer with results: {where} {first['msg']}", requests)
        if len(results) != len(requests):
            fault = RewardFault(
                kind="length",
                detail=f"{self._shown} must give a result per sample, got {len(results)} for {len(requests)}",
            )
            return [fault] * len(requests)
        outcomes: list[Outcome] = []
        for result in results:
            if result.error is not None:
                told = f"{self._shown}: {result.error.reason}: {result.error.detail}"
                outcomes.append(RewardFault(kind="error", detail=told))
            else:
                detail = "; ".join(f"{name}: {text}" for name, text in result.details.items())
                facts = result.breakdown | result.facts
                outcomes.append(checked(RewardResult(value=result.total, detail=detail, facts=facts)))
        return outcomes

    def _failed(self, what: str, requests: Sequence[RewardRequest], *, kind: FaultKind = "error") -> list[Outcome]:
        return [RewardFault(kind=kind, detail=f"{self._shown} {what}")] * len(requests)


def over_http(config: HttpRewardConfig, *, asks_all: bool = False) -> PooledReward:
    """A reward of another service."""
    return PooledReward(config, make_channel=lambda: HttpChannel(config), size=1, asks_all=asks_all)


def check_http(config: HttpRewardConfig) -> None:
    """Checks what can be known before the service is asked.

    Raises:
        ConfigError: the token is not there.
    """
    if config.token_env is not None:
        _token(config)


def _token(config: HttpRewardConfig) -> str:
    name = config.token_env or ""
    token = os.environ.get(name, "")
    if not token or not token.isascii() or not token.isprintable():
        what = "nothing" if not token else "other characters"
        raise ConfigError(
            f"reward.rewards {config.name}.token_env must name a variable that holds printable ASCII, got "
            f"{what} in ${name}; set it where the run is started"
        )
    return token


def _retry_after_s(reply: httpx.Response) -> float | None:
    """Seconds until who is busy can be asked again; None where it does not say."""
    if reply.status_code != 429:
        return None
    told = reply.headers.get("Retry-After", "")
    return min(max(float(told), MIN_RETRY_S), 3600.0) if told.isascii() and told.isdecimal() else None


async def _read(reply: httpx.Response) -> bytes | None:
    """Its body; None where that is too long."""
    content = bytearray()
    async for part in reply.aiter_bytes():
        content += part
        if len(content) > MAX_REPLY_BYTES:
            return None
    return bytes(content)


def _shown(content: bytes) -> str:
    """What a service says of its refusal, in one line."""
    text = content[:2000].decode(errors="replace")
    try:
        told: Any = json.loads(text)
    except ValueError:
        told = text
    return " ".join(f"{told}".split())[:300] or "nothing"
