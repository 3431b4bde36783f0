"""What the HTTP service answers. Whatever it is sent, it answers in its own words and repeats nothing."""

import asyncio
import hmac
import inspect
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from common.config.reward import BuiltinRewardConfig
from common.errors import last_line
from common.types import Failure
from reward.builtin import BUILTIN
from reward.service import GroupReport, RewardService
from reward.wire import ScoreBatch, ScoreReply, WireError, WireResult, WireSample, request_of, stray_path

logger = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered without a token, so that whoever runs the service can watch it."""
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is taken at a time."""

    max_body_bytes: int = 8 * 2**20
    body_s: float = 30.0
    """Seconds in which a body must have come."""
    max_held_bytes: int = 64 * 2**20
    """Of all bodies together, from when they come until they are answered."""
    max_requests: int = 256
    max_samples: int = 4096
    """Being scored; a request beyond is told to come again."""


class RewardInfo(BaseModel):
    """A configured reward."""

    name: str
    type: str
    weight: float
    on_error: str
    requires: str | None
    documentation: str


class RewardList(BaseModel):
    """Answer of `GET /v1/rewards`."""

    rewards: tuple[RewardInfo, ...]


class Refusal(BaseModel):
    """Why a request was not answered."""

    field: str
    """What is wrong with it, dotted; `body` for all of it."""
    message: str


class RefusedError(Exception):
    """A request that gets no results."""

    def __init__(self, status: int, field: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.field, self.headers = status, field, dict(headers or {})

    def response(self) -> Response:
        """In JSON."""
        return _json(self.status, {"field": self.field, "message": str(self)}, self.headers)


class Meters:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "omni_reward_requests", "Score requests by status.", ["status"], registry=self.registry
        )
        self.samples = Counter(
            "omni_reward_samples", "Samples asked about, by reward.", ["reward"], registry=self.registry
        )
        self.errors = Counter(
            "omni_reward_errors", "Samples that a reward failed on.", ["reward"], registry=self.registry
        )
        self.left_out = Counter(
            "omni_reward_left_out", "Groups that a reward had no part in.", ["reward"], registry=self.registry
        )
        self.seconds = Histogram(
            "omni_reward_seconds", "Seconds that a reward took for a group.", ["reward"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "omni_reward_request_seconds", "Seconds of score requests.", registry=self.registry
        )
        self.in_flight = Gauge("omni_reward_samples_in_flight", "Samples being scored.", registry=self.registry)

    def add(self, report: GroupReport, num_samples: int) -> None:
        """Takes note of a group."""
        for name, seconds in report.seconds.items():
            self.samples.labels(name).inc(num_samples)
            self.seconds.labels(name).observe(seconds)
        for name, count in report.num_faults.items():
            self.errors.labels(name).inc(count)
        for name in report.left_out:
            self.left_out.labels(name).inc()


class TokenGate:
    """Lets through who shows the token; around everything."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._expected is None or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if hmac.compare_digest(shown, self._expected):
            await self._app(scope, receive, send)
            return
        refused = RefusedError(
            401, "authorization", "must be the service's bearer token", {"WWW-Authenticate": "Bearer"}
        )
        await refused.response()(scope, receive, send)


class Scoring:
    """`POST /v1/score`, with its limits."""

    def __init__(self, service: RewardService, *, media_root: Path | None, limits: Limits, meters: Meters) -> None:
        self._service, self._media_root, self._limits, self._meters = service, media_root, limits, meters
        self._num_requests = 0
        self._num_samples = 0
        self._num_bytes = 0

    async def __call__(self, request: Request) -> Response:
        """Never fails: what is wrong with a request is told with its field's name."""
        started = time.perf_counter()
        self._num_requests += 1
        body = bytearray()
        try:
            if self._num_requests > self._limits.max_requests:
                raise _busy()
            await self._read(request, body)
            batch = self._batch(request, body)
            response = Response(await self._scored(batch), media_type="application/json")
        except RefusedError as error:
            response = error.response()
        except ClientDisconnect:
            response = Response(status_code=400)
        finally:
            self._num_requests -= 1
            self._num_bytes -= len(body)
        self._meters.requests.labels(str(response.status_code)).inc()
        self._meters.request_seconds.observe(time.perf_counter() - started)
        return response

    async def _read(self, request: Request, body: bytearray) -> None:
        """Adds to `body` what comes, and counts it.

        What is too much beside others' is read to its end all the same, and not kept: who is cut off while sending
        cannot read why.
        """
        limit, num_read, is_kept = self._limits.max_body_bytes, 0, True
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for part in request.stream():
                    num_read += len(part)
                    if num_read > limit:
                        raise RefusedError(413, "body", f"must have <= {limit} bytes", {"Connection": "close"})
                    if is_kept:
                        body += part
                        self._num_bytes += len(part)
                        is_kept = self._num_bytes <= max(self._limits.max_held_bytes, limit)
                    if not is_kept:
                        self._num_bytes -= len(body)
                        body.clear()
        except TimeoutError:
            raise RefusedError(408, "body", "must come sooner", {"Connection": "close"}) from None
        if not is_kept:
            raise _busy()

    def _batch(self, request: Request, body: bytearray) -> ScoreBatch:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, "content-type", "must be application/json")
        try:
            batch = ScoreBatch.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(str(part)[:64] for part in first["loc"]) or "body"
            raise RefusedError(422, field, first["msg"][:200]) from None
        for index, sample in enumerate(batch.samples):
            field = stray_path(sample, media_root=self._media_root)
            if field is not None:
                where = "lie within the service's --media-root" if self._media_root else "be left out here"
                raise RefusedError(422, f"samples.{index}.{field}", f"must {where}")
        return batch

    async def _scored(self, batch: ScoreBatch) -> bytes:
        count = len(batch.samples)
        if self._num_samples + count > max(self._limits.max_samples, count):
            raise _busy()
        self._num_samples += count
        self._meters.in_flight.inc(count)
        try:
            groups: dict[tuple[str, str | int], list[int]] = {}
            for index, sample in enumerate(batch.samples):
                groups.setdefault((sample.group, "" if sample.group else sample.prompt_id or index), []).append(
                    index
                )
            results: list[WireResult | None] = [None] * count
            asked = [self._group([batch.samples[i] for i in indices]) for indices in groups.values()]
            if self._service.is_quick:
                scored = [await group for group in asked]
            else:
                scored = await asyncio.gather(*asked)
            for indices, found in zip(groups.values(), scored, strict=True):
                for index, result in zip(indices, found, strict=True):
                    results[index] = result
        finally:
            self._num_samples -= count
            self._meters.in_flight.dec(count)
        return (
            ScoreReply(results=tuple(result for result in results if result is not None)).model_dump_json().encode()
        )

    async def _group(self, samples: Sequence[WireSample]) -> list[WireResult]:
        requests = [request_of(sample) for sample in samples]
        try:
            report = await self._service.score_requests(requests)
            results = _results(report, len(samples))
        except Exception as error:  # the process boundary: told as an error of the group
            logger.exception("a group could not be scored")
            report = _failed("service-error", type(error).__name__)
            results = _results(report, len(samples))
        self._meters.add(report, len(samples))
        for name, fault in report.faults.items():
            logger.warning("reward %s failed (%s): %s", name, fault.kind, fault.detail)
        return results


def _failed(reason: str, detail: str) -> GroupReport:
    return GroupReport(scores=Failure(stage="reward", reason=reason, detail=detail))


def _results(report: GroupReport, count: int) -> list[WireResult]:
    """What a group's samples are told."""
    if isinstance(report.scores, Failure):
        # a traceback is for who runs the service
        detail = last_line(RuntimeError(report.scores.detail))[:500]
        error = WireError(reason=report.scores.reason, detail=detail)
        return [WireResult(total=None, left_out=report.left_out, error=error)] * count
    return [
        WireResult(
            total=score.total,
            breakdown=dict(score.breakdown),
            details=dict(score.details),
            facts=dict(score.facts),
            left_out=report.left_out,
        )
        for score in report.scores
    ]


def create_app(service: RewardService, *, token: str | None, media_root: Path | None, limits: Limits) -> FastAPI:
    """The application over a service that its caller starts and closes.

    Args:
        service: the rewards.
        token: that callers must show; None for none.
        media_root: folder that samples may name files of; None for no files.
        limits: what is taken at a time.
    """
    app = FastAPI(title="omni-rlvr rewards", version="1", redoc_url=None)
    meters = Meters()
    scoring = Scoring(service, media_root=media_root, limits=limits, meters=meters)
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Refusal} for status in (401, 408, 413, 415, 422, 429)
    }
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": _ref("ScoreBatch")}}}}

    @app.post("/v1/score", response_model=ScoreReply, responses=refusals, openapi_extra={"requestBody": body})
    async def score(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Scores samples; the results come in their order. A reward that fails is an error of its group."""
        return await scoring(request)

    @app.get("/v1/rewards", responses={401: {"model": Refusal}})
    async def rewards() -> RewardList:  # pyright: ignore[reportUnusedFunction]
        """The configured rewards, their weights and documentation."""
        return reward_list(service)

    @app.get("/healthz", response_class=Response)
    async def healthz() -> Response:  # pyright: ignore[reportUnusedFunction]
        """That the process answers."""
        return _json(200, {"status": "alive"})

    @app.get("/readyz", response_class=Response)
    async def readyz() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Whether every reward is up."""
        return _json(200, {"status": "ready"}) if service.is_ready else _json(503, {"status": "starting"})

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """For Prometheus."""
        return Response(generate_latest(meters.registry), media_type=TEXT)

    _document(app)
    app.add_middleware(TokenGate, token=token)
    return app


def reward_list(service: RewardService) -> RewardList:
    """The configured rewards; options and addresses are for who runs the service."""
    return RewardList(
        rewards=tuple(
            RewardInfo(
                name=entry.name,
                type=entry.type,
                weight=entry.weight,
                on_error=entry.on_error,
                requires=entry.requires,
                documentation=inspect.getdoc(BUILTIN[entry.builtin_name]) or ""
                if isinstance(entry, BuiltinRewardConfig)
                else "",
            )
            for entry in service.config.rewards
        )
    )


def _document(app: FastAPI) -> None:
    """Adds what the body of a request is, which is read by hand."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        batch = ScoreBatch.model_json_schema(ref_template=_ref("{model}"))
        components.update(batch.pop("$defs", {}))
        components["ScoreBatch"] = batch
        return schema

    app.openapi = openapi


def _ref(model: str) -> str:
    return f"#/components/schemas/{model}"


def _busy() -> RefusedError:
    return RefusedError(429, "body", "the service is busy; come again", {"Retry-After": "1"})


def _json(status: int, value: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(value), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )
