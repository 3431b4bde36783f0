"""Prometheus metrics of the reward service over HTTP."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from reward.service import GroupReport


class Meters:
    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        counter = partial(Counter, labelnames=["reward"], registry=registry)
        self.requests = Counter("omni_reward_requests", "Score requests by status.", ["status"], registry=registry)
        self.samples = counter("omni_reward_samples", "Samples sent to a reward.")
        self.errors = counter("omni_reward_errors", "Samples on which a reward failed.")
        self.left_out = counter("omni_reward_left_out", "Groups in which a reward did not count.")
        histogram = partial(Histogram, registry=registry)
        self.seconds = histogram("omni_reward_seconds", "Seconds that a reward took for a group.", ["reward"])
        self.request_seconds = histogram("omni_reward_request_seconds", "Seconds of score requests.")
        self.in_flight = Gauge("omni_reward_samples_in_flight", "Samples being scored.", registry=registry)

    def add(self, report: GroupReport, num_samples: int) -> None:
        for name, seconds in report.seconds.items():
            self.samples.labels(name).inc(num_samples)
            self.seconds.labels(name).observe(seconds)
        for name, count in report.num_faults.items():
            self.errors.labels(name).inc(count)
        for name in report.left_out:
            self.left_out.labels(name).inc()
