"""Prometheus metrics of the reward service over HTTP."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward.gates import SCORE_PATH
from reward.service import GroupReport


class Meters:
    """Counters, histograms and gauges of one application."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("omni_reward_requests", "Score requests by status.", ["status"], registry=own)
        self.samples = Counter("omni_reward_samples", "Samples asked about, by reward.", ["reward"], registry=own)
        self.errors = Counter("omni_reward_errors", "Samples that a reward failed on.", ["reward"], registry=own)
        self.left_out = Counter(
            "omni_reward_left_out", "Groups that a reward had no part in.", ["reward"], registry=own
        )
        self.seconds = Histogram(
            "omni_reward_seconds", "Seconds that a reward took for a group.", ["reward"], registry=own
        )
        self.request_seconds = Histogram("omni_reward_request_seconds", "Seconds of score requests.", registry=own)
        self.in_flight = Gauge("omni_reward_samples_in_flight", "Samples being scored.", registry=own)

    def add(self, report: GroupReport, num_samples: int) -> None:
        """Counts a group of samples."""
        for name, seconds in report.seconds.items():
            self.samples.labels(name).inc(num_samples)
            self.seconds.labels(name).observe(seconds)
        for name, count in report.num_faults.items():
            self.errors.labels(name).inc(count)
        for name in report.left_out:
            self.left_out.labels(name).inc()


class RequestMeter:
    """ASGI middleware that counts score requests by status, and measures the time to their response."""

    def __init__(self, app: ASGIApp, *, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes every request on."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", SCORE_PATH):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def metered(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._meters.requests.labels(str(message["status"])).inc()
                self._meters.request_seconds.observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, metered)
