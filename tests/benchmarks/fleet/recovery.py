"""From the kill of an engine's core to READY again, beside a cold start in the same run."""

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Sequence
from typing import Any

import ray

from common.config.data import DataConfig
from common.config.learner import LearnerConfig, PublishConfig
from common.config.rollout import RolloutConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.models.registry import family_of
from common.node_agent_actor import COPY_GROUPS, NodeAgent, NodeAgents, agent_options
from common.prompts.probe_clips import probe_prompts
from common.runtime.engine_processes import ENGINE_VARIABLE
from common.types import ProcessedPrompt
from deploy.engine_host import RayEngineHost
from learner.publishing.publisher import Publisher
from rollout.actor import CONCURRENCY_GROUPS, EngineActor
from rollout.fleet.fleet import EngineEvent, Fleet
from tests.benchmarks.part import Part
from tests.support.engines import ENGINE_ENV, SAMPLING, start_ranks, stop_ranks

SLOT = "engine-0"
CONFIG = RolloutConfig(max_model_len=1024, max_num_seqs=32, kv_cache_gib=0.25)
NUM_KILLS = 2
MAX_RATIO, EXTRA_S = 1.3, 10.0
"""Kill to READY must end within so many cold starts and so many seconds."""


class Timeline:
    """When each incarnation entered each state."""

    def __init__(self) -> None:
        self.entered_s: dict[tuple[str, str], float] = {}
        self.pids: dict[str, dict[str, int]] = {}
        self._changed = asyncio.Event()

    def note(self, event: EngineEvent) -> None:
        self.entered_s.setdefault((event.engine, event.state), time.perf_counter())
        self.pids[event.engine] = dict(event.pids)
        self._changed.set()

    async def until_ready(self, engine: str) -> None:
        while (engine, "ready") not in self.entered_s:
            self._changed.clear()
            await self._changed.wait()

    def between(self, first: tuple[str, str], last: tuple[str, str]) -> float:
        return self.entered_s[last] - self.entered_s[first]


def host_of(model: str, prompts: Sequence[ProcessedPrompt], agents: NodeAgents) -> RayEngineHost:
    """Real engines on this node."""
    actor: Any = ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(EngineActor)

    def make(slot: str, token: str, model_path: str, version: int) -> Any:
        env = ENGINE_ENV | {ENGINE_VARIABLE: token}
        return actor.options(num_cpus=0.2, runtime_env={"env_vars": env}).remote(
            name=slot, model_path=model_path, config=CONFIG, dtype="float32", version=version
        )

    async def warm_up_prompts() -> Sequence[ProcessedPrompt]:
        return prompts

    return RayEngineHost(
        make,
        model_path=model,
        version=0,
        config=CONFIG,
        sampling=SAMPLING,
        warm_up_prompts=warm_up_prompts,
        agents=agents,
    )


def make_agent(node: str) -> Any:
    """The agent of a node."""
    agent: Any = ray.remote(concurrency_groups=COPY_GROUPS)(NodeAgent)
    return agent.options(**agent_options(node)).remote()


async def admit_for_ever(fleet: Fleet, publisher: Publisher) -> None:
    """As a run does while its ranks are free."""
    while True:
        await fleet.until_joining()
        await publisher.admit()


async def kills(model: str, ranks: Any, info: Any, part: Part) -> dict[str, Any]:
    """A cold start, and recoveries of the same slot."""
    timeline = Timeline()
    prompts = probe_prompts(family_of(model), model_path=model, data=DataConfig())
    agents = NodeAgents(make_agent)
    fleet = Fleet(
        host_of(model, prompts, agents),
        slots=[SLOT],
        min_engines=1,
        version=0,
        max_sequences=2 * CONFIG.max_num_seqs,
        start_deadline_s=300.0,
        notify=timeline.note,
    )
    publisher = Publisher(
        senders=ranks,
        fleet=fleet,
        plan=info["plan"],
        segments=info["segments"],
        probes=prompts,
        sampling=SAMPLING,
        config=PublishConfig(),
        answer_deadline_s=CONFIG.answer_deadline_s,
        dtype="float32",
    )
    recoveries: list[dict[str, float]] = []
    async with fleet:
        with part.measurement("cold start"):
            await fleet.until_warm()
        with part.measurement("rehearsal and first delivery"):
            await publisher.start()
        cold_s = timeline.between((f"{SLOT}.1", "asked"), (f"{SLOT}.1", "rehearsing"))
        admission = asyncio.create_task(admit_for_ever(fleet, publisher))
        for number in range(1, NUM_KILLS + 1):
            old, new = f"{SLOT}.{number}", f"{SLOT}.{number + 1}"
            with part.measurement(f"kill {number} of {NUM_KILLS} to READY"):
                killed_s = time.perf_counter()
                os.kill(timeline.pids[old]["core"], signal.SIGKILL)
                await timeline.until_ready(new)
            # so that losses do not add up to the end of the slot
            await publisher.publish()
            recoveries.append(
                {
                    "detected_s": timeline.entered_s[old, "condemned"] - killed_s,
                    "ended_s": timeline.between((old, "condemned"), (new, "asked")),
                    "start_s": timeline.between((new, "asked"), (new, "rehearsing")),
                    "admission_s": timeline.between((new, "rehearsing"), (new, "ready")),
                    "kill_to_ready_s": timeline.entered_s[new, "ready"] - killed_s,
                }
            )
        admission.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await admission
    await agents.close()
    kill_to_ready_s = statistics.median(r["kill_to_ready_s"] for r in recoveries)
    limit_s = MAX_RATIO * cold_s + EXTRA_S
    return {
        "cold_start_s": cold_s,
        "kill_to_ready_s": kill_to_ready_s,
        "kill_to_ready_limit_s": limit_s,
        "kill_to_ready_over_limit": kill_to_ready_s / limit_s,
        "recoveries": recoveries,
    }


def measure(part: Part) -> dict[str, Any]:
    """A tiny model, one engine and one rank."""
    model = str(build_tiny_checkpoint(part.folder / "recovery"))
    with part.measurement("start of a rank"):
        ranks, info = start_ranks(model, config=LearnerConfig(beta=0.0))
    try:
        return asyncio.run(kills(model, ranks, info, part))
    finally:
        stop_ranks(ranks)
