"""The time for which engines are paused by a publish, in copies of the same bytes in memory."""

import asyncio
import statistics
import time
from typing import Any

import numpy as np
import ray

from common.config.data import DataConfig
from common.config.learner import LearnerConfig, PublishConfig
from common.config.rollout import RolloutConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.models.registry import family_of
from common.prompts.probe_clips import probe_prompts
from learner.publishing.publisher import Publisher
from rollout.actor import EngineClient
from tests.benchmarks.part import Part
from tests.support.engines import SAMPLING, start_engine, start_ranks, stop_ranks
from tests.support.fakes import FakeFleet

HIDDEN_SIZE, NUM_LAYERS = 1024, 13
"""About 490 MB in float32."""
CONFIG = RolloutConfig(max_model_len=1024, max_num_seqs=8, kv_cache_gib=0.25)
ROUNDS = 5
DEADLINE_S = 120.0
TARGETS = {1: 8.0, 2: 12.0}
"""Copies, by number of engines."""


class Paused:
    """An engine's client that notes when its pause began and when it had ended."""

    def __init__(self, client: EngineClient) -> None:
        self._client, self.name = client, client.name
        self._begin_s = self.stall_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def pause(self) -> None:
        self._begin_s = time.perf_counter()
        await self._client.pause()

    async def resume(self) -> None:
        await self._client.resume()
        self.stall_s = time.perf_counter() - self._begin_s


def copy_s(num_bytes: int) -> float:
    """Seconds of one copy between two warm arrays: the median of some."""
    source, target = np.ones(num_bytes, np.uint8), np.ones(num_bytes, np.uint8)
    seconds: list[float] = []
    for _ in range(ROUNDS):
        begin_s = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)


async def stalls(publisher: Publisher, engines: list[Paused], part: Part) -> dict[str, Any]:
    """Publishes, and a copy beside each; the first warms up."""
    rounds: list[tuple[float, float, dict[str, float]]] = []
    num_bytes = 0
    for number in range(ROUNDS + 1):
        with part.measurement(f"publish {number} of {ROUNDS} to {len(engines)}"):
            report = await publisher.publish()
        # an engine that was lost would count as a quick one
        assert report.canary.keys() == {engine.name for engine in engines}, report.canary
        num_bytes = report.num_bytes
        rounds.append((max(e.stall_s for e in engines), copy_s(num_bytes), report.seconds))
        part.say(f"  stall {rounds[-1][0]:.3f} s, copy {rounds[-1][1]:.3f} s; {_shown(report.seconds)}")
    kept = rounds[1:]
    return {
        "num_bytes": num_bytes,
        "stall_s": statistics.median(stall for stall, _, _ in kept),
        "copy_s": statistics.median(copy for _, copy, _ in kept),
        "stall_over_copy": statistics.median(stall / copy for stall, copy, _ in kept),
        "phases_s": {key: statistics.median(s[key] for _, _, s in kept) for key in kept[0][2]},
    }


def _shown(seconds: dict[str, float]) -> str:
    return ", ".join(f"{phase} {value:.3f}" for phase, value in seconds.items())


async def to_engines(model: str, engines: list[EngineClient], ranks: Any, info: Any, part: Part) -> dict[str, Any]:
    """To the first alone, then to both."""
    probes = probe_prompts(family_of(model), model_path=model, data=DataConfig())
    await asyncio.gather(*(engine.warm_up(probes[:1]) for engine in engines))
    result: dict[str, Any] = {}
    version = 0
    for count in TARGETS:
        members = [Paused(engine) for engine in engines[:count]]
        publisher = Publisher(
            senders=ranks,
            fleet=FakeFleet(members, version=version, are_verified=True),  # pyright: ignore[reportArgumentType]
            plan=info["plan"],
            segments=info["segments"],
            probes=probes,
            sampling=SAMPLING,
            # a rehearsal moves no bytes that a publish does not
            config=PublishConfig(rehearsal=False),
            answer_deadline_s=DEADLINE_S,
            dtype="float32",
            version=version,
        )
        await publisher.start()
        measured = await stalls(publisher, members, part)
        result[f"{count} engine{'s' * (count > 1)}"] = measured | {"target": TARGETS[count]}
        version = publisher.version
    return result


def measure(part: Part) -> dict[str, Any]:
    """Stalls of one engine, and of two that are published to at once, on one node."""
    with part.measurement("checkpoint of the publish"):
        model = str(build_tiny_checkpoint(part.folder / "publish", hidden_size=HIDDEN_SIZE, num_layers=NUM_LAYERS))
    engines = [
        start_engine(model, name=f"engine-{i}", config=CONFIG, answer_deadline_s=DEADLINE_S)
        for i in range(max(TARGETS))
    ]
    with part.measurement("start of a rank"):
        ranks, info = start_ranks(model, config=LearnerConfig(beta=0.0))
    try:
        return asyncio.run(to_engines(model, engines, ranks, info, part))
    finally:
        stop_ranks(ranks)
        for engine in engines:
            ray.get(engine.handle.shutdown.remote())
            ray.kill(engine.handle)
