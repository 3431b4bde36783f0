"""The reward service as a FastAPI application: its routes, and the form of its refusals."""

import asyncio
import inspect
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest

from common.config.reward import BuiltinRewardConfig, RewardKind
from common.errors import last_line
from common.types import Failure
from reward import wire
from reward.builtin import BUILTIN
from reward.service import GroupReport, RewardService
from reward.web.gates import SCORE_PATH, BodyGate, RefusedError, RequestLimits, TokenGate, busy
from reward.web.meters import Meters

logger = logging.getLogger(__name__)
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Routes:
    """The endpoints. Their docstrings are the API's documentation."""

    def __init__(
        self, service: RewardService, *, media_root: Path | None, max_samples: int, meters: Meters
    ) -> None:
        self._service, self._media_root, self._meters = service, media_root, meters
        self._max_samples = max_samples
        self._num_samples = 0

    async def score(self, batch: wire.ScoreBatch) -> wire.ScoreReply:
        """Scores samples; results have the order of the samples. A failed reward is an error of its group."""
        for index, sample in enumerate(batch.samples):
            field = wire.stray_path(sample, media_root=self._media_root)
            if field is not None:
                where = "lie within the service's --media-root" if self._media_root else "be left out here"
                raise RefusedError(422, f"samples.{index}.{field}", f"must {where}")
        count = len(batch.samples)
        # one batch always fits
        if self._num_samples and self._num_samples + count > self._max_samples:
            raise busy()
        self._num_samples += count
        self._meters.in_flight.inc(count)
        try:
            return wire.ScoreReply(results=await self._results(batch.samples))
        finally:
            self._num_samples -= count
            self._meters.in_flight.dec(count)

    async def rewards(self) -> wire.RewardList:
        """The configured rewards, their weights and documentation."""
        return wire.RewardList(rewards=tuple(map(_info, self._service.config.rewards)))

    async def healthz(self) -> Response:
        """Returns 200 while the process runs."""
        return JSONResponse({"status": "alive"})

    async def readyz(self) -> Response:
        """Returns 200 if every reward is ready."""
        is_ready = self._service.is_ready
        return JSONResponse({"status": "ready" if is_ready else "starting"}, 200 if is_ready else 503)

    async def metrics(self) -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(self._meters.registry), media_type=METRICS_TYPE)

    async def _results(self, samples: Sequence[wire.WireSample]) -> tuple[wire.WireResult, ...]:
        groups: dict[tuple[str, str | int], list[int]] = {}
        for index, sample in enumerate(samples):
            key = (sample.group, "" if sample.group else sample.prompt_id or index)
            groups.setdefault(key, []).append(index)
        scoring = [self._group([samples[index] for index in indices]) for indices in groups.values()]
        # tasks cost more than rewards that never wait
        scored = [await call for call in scoring] if self._service.is_quick else await asyncio.gather(*scoring)
        results = dict(zip(chain.from_iterable(groups.values()), chain.from_iterable(scored), strict=True))
        return tuple(results[index] for index in range(len(samples)))

    async def _group(self, samples: Sequence[wire.WireSample]) -> list[wire.WireResult]:
        count = len(samples)
        try:
            report = await self._service.score_requests([wire.request_of(sample) for sample in samples])
            results = _results(report, count)
        except Exception as error:  # the process boundary: an error of the group in the response
            logger.exception("a group could not be scored")
            failure = Failure(stage="reward", reason="service-error", detail=type(error).__name__)
            report = GroupReport(scores=failure)
            results = _results(report, count)
        self._meters.add(report, count)
        for name, fault in report.faults.items():
            logger.warning("reward %s failed (%s): %s", name, fault.kind, fault.detail)
        return results


def _results(report: GroupReport, count: int) -> list[wire.WireResult]:
    if isinstance(report.scores, Failure):
        # tracebacks go to the log alone
        detail = last_line(RuntimeError(report.scores.detail))[:500]
        error = wire.WireError(reason=report.scores.reason, detail=detail)
        return [wire.WireResult(total=None, left_out=report.left_out, error=error)] * count
    return [
        wire.WireResult(
            total=score.total,
            breakdown=dict(score.breakdown),
            details=dict(score.details),
            facts=dict(score.facts),
            left_out=report.left_out,
        )
        for score in report.scores
    ]


def _info(entry: RewardKind) -> wire.RewardInfo:
    # options and addresses belong to the operator
    builtin = BUILTIN[entry.builtin_name] if isinstance(entry, BuiltinRewardConfig) else None
    shown = entry.model_dump(include=set(wire.RewardInfo.model_fields))
    return wire.RewardInfo(**shown, documentation=inspect.getdoc(builtin) or "" if builtin else "")


async def _refused(_: Request, error: RefusedError) -> Response:
    return error.response()


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    # nothing else of the request is repeated
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        return RefusedError(415, "content-type", "must be application/json").response()
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        _, position = first["loc"]
        return RefusedError(422, "body", f"must be JSON: {first['ctx']['error']} at {position}").response()
    # FastAPI's locations begin with `body`
    field = ".".join(str(part)[:64] for part in first["loc"][1:]) or "body"
    return RefusedError(422, field, first["msg"][:200]).response()


async def _unreadable(_: Request, error: Exception) -> Response:
    # FastAPI answers 400 if `json.loads` raises anything but a `JSONDecodeError`
    message = "must be JSON in UTF-8, not nested deeply and without very long numbers"
    return RefusedError(422, "body", message).response()


def create_app(
    service: RewardService, *, token: str | None, media_root: Path | None, limits: RequestLimits
) -> FastAPI:
    """The application over a service, which its caller starts and closes.

    `token` is required from clients unless None; samples may only name files under `media_root`, none if None.
    """
    app = FastAPI(title="omni-rlvr rewards", version="1", redoc_url=None)
    meters = Meters()
    routes = Routes(service, media_root=media_root, max_samples=limits.max_samples, meters=meters)
    refusal: dict[str, Any] = {"model": wire.Refusal}
    refusals = dict.fromkeys((401, 408, 413, 415, 422, 429), refusal)
    app.add_api_route(SCORE_PATH, routes.score, methods=["POST"], responses={**refusals})
    app.add_api_route("/v1/rewards", routes.rewards, responses={401: refusal})
    for endpoint in (routes.healthz, routes.readyz, routes.metrics):
        app.add_api_route(f"/{endpoint.__name__}", endpoint, response_class=Response)
    app.exception_handler(RefusedError)(_refused)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(400)(_unreadable)
    # the last one is the outermost
    app.add_middleware(BodyGate, limits=limits, meters=meters)
    app.add_middleware(TokenGate, token=token, limits=limits)
    return app
