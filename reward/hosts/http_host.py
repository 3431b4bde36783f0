"""A reward behind `POST /v1/score` of another service."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import httpx
from pydantic import ValidationError

from common.config.address import shown_url
from common.config.reward import HttpRewardConfig
from common.runtime.http_client import HttpClient, HttpError, HttpReply, HttpReplyError, HttpTarget
from reward.hosts.reward_host import HostLostError, RewardHost
from reward.outcome import FaultKind, Outcome, RewardFault, checked
from reward.request import RewardRequest, RewardResult
from reward.wire import ScoreReply, sample_of

MAX_REPLY_BYTES = 16 * 2**20
MIN_RETRY_S = 0.1
"""Least seconds between two requests to a busy service."""


class HttpHost(RewardHost):
    """A service at its configured address; redirects are not followed."""

    def __init__(self, config: HttpRewardConfig, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.takes_groups, self.concurrency = True, config.max_concurrency
        self._shown = shown_url(config.url)
        self.decision = f"reward {config.name}: the service at {self._shown} is called, a group at a time"
        self._config, self._transport = config, transport
        self._client: HttpClient | None = None
        self._ended = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    async def open(self) -> None:
        target = target_of(self._config)
        self._client = HttpClient(target, max_connections=self.concurrency, transport=self._transport)
        self._holding = asyncio.create_task(self._hold(self._client))

    async def _hold(self, client: HttpClient) -> None:
        # `end` cannot wait for the client to close
        async with aclosing(client):
            await self._ended.wait()

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call, which waits and retries while the service is busy; raises `HostLostError`."""
        samples = [sample_of(r, with_paths=self._config.send_paths) | {"group": "asked"} for r in requests]
        assert self._client is not None
        while True:
            try:
                reply = await self._client.post("/v1/score", {"samples": samples}, timeout_s=None)
            except HttpReplyError as error:
                return self._failed(f"answered with {error}", requests)
            except HttpError as error:
                raise HostLostError(f"{self._shown}: {error}") from error
            wait_s = _retry_after_s(reply)
            if wait_s is None:
                break
            # the deadline of the call includes this wait
            await asyncio.sleep(wait_s)
        if 200 <= reply.status < 300:
            return self._outcomes(reply.content, requests)
        # a repeated request would be refused again
        is_final = 400 <= reply.status < 500 and reply.status not in (408, 429)
        kind: FaultKind = "refused" if is_final else "error"
        return self._failed(f"answered {reply.status}: {reply.excerpt}", requests, kind=kind)

    def end(self) -> None:
        # connections close with the client
        self._ended.set()

    def _outcomes(self, content: bytes, requests: Sequence[RewardRequest]) -> list[Outcome]:
        try:
            results = ScoreReply.model_validate_json(content).results
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            return self._failed(f"must return results: {where} {first['msg']}", requests)
        if len(results) != len(requests):
            problem = f"must return one result per sample, got {len(results)} for {len(requests)}"
            return self._failed(problem, requests, kind="length")
        outcomes: list[Outcome] = []
        for result in results:
            if result.error is not None:
                reason = f"{self._shown}: {result.error.reason}: {result.error.detail}"
                outcomes.append(RewardFault(kind="error", detail=reason))
            else:
                detail = "; ".join(f"{name}: {text}" for name, text in result.details.items())
                facts = result.breakdown | result.facts
                outcomes.append(checked(RewardResult(value=result.total, detail=detail, facts=facts)))
        return outcomes

    def _failed(self, what: str, requests: Sequence[RewardRequest], *, kind: FaultKind = "error") -> list[Outcome]:
        return [RewardFault(kind=kind, detail=f"{self._shown} {what}")] * len(requests)


def target_of(config: HttpRewardConfig) -> HttpTarget:
    """The service's address and token; raises `ConfigError` if the token is not set."""
    return HttpTarget(
        url=config.url,
        token_env=config.token_env,
        keys=(f"reward.rewards {config.name}.url", f"reward.rewards {config.name}.token_env"),
        allow_plain_http=config.allow_plain_http,
        max_reply_bytes=MAX_REPLY_BYTES,
    )


def _retry_after_s(reply: HttpReply) -> float | None:
    """Seconds before a retry, by the headers of a busy service; None without them."""
    seconds = reply.retry_after
    if reply.status != 429 or not (seconds.isascii() and seconds.isdecimal()):
        return None
    return min(max(float(seconds), MIN_RETRY_S), 3600.0)
