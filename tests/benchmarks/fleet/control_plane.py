"""Driver CPU per group, and groups per second through Ray actors that answer at once."""

import asyncio
import gc
import statistics
import time
from typing import Any

import ray

from common.types import Generation, MediaRef, Prompt, SamplingSpec
from rollout.actor import CONCURRENCY_GROUPS, EngineClient
from rollout.fleet.dispatcher import Dispatcher
from rollout.pool import RolloutPool
from tests.benchmarks.part import Part
from tests.support.builders import make_draw, make_generation
from tests.support.fleet import dispatcher_of

GROUP_SIZE, NUM_IN_FLIGHT, NUM_QUEUED = 8, 4, 4
"""Groups per engine: in the engine, and in the queue for it."""
NUM_ENGINES = (1, 4, 16, 64, 256)
NUM_GROUPS, NUM_GROUPS_PER_ENGINE = 4096, 64
ROUNDS = 5
NUM_ECHOES, NUM_ECHO_GROUPS = 8, 2000
SAMPLING = SamplingSpec(max_tokens=16)


class InstantEngine:
    """Answers in the next turn of the loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = make_generation(GROUP_SIZE, engine=name)

    async def generate(self, media: Any, **request: Any) -> Generation:
        await asyncio.sleep(0)
        return self.generation


class EchoActor:
    """The process of an engine that answers at once."""

    def __init__(self, name: str) -> None:
        self.generation = make_generation(GROUP_SIZE, engine=name)

    async def generate(self, media: Any, **request: Any) -> Generation:
        return self.generation


def pool_of(dispatcher: Dispatcher, slots: list[str]) -> RolloutPool:
    return RolloutPool(dispatcher, slots=slots, sampling=SAMPLING, group_size=GROUP_SIZE, deadline_s=60.0)


async def through(pool: RolloutPool, prompts: list[Prompt], *, num_callers: int) -> None:
    """Every prompt once, so many at a time."""
    remaining = iter(prompts)

    async def call() -> None:
        for prompt in remaining:
            assert isinstance(await pool(prompt), Generation)

    await asyncio.gather(*(call() for _ in range(num_callers)))


def prompts_of(count: int) -> list[Prompt]:
    """One clip each."""
    return [
        Prompt(draw=make_draw(f"clip-{i}"), media=MediaRef([f"clip-{i}"]), num_prompt_tokens=3, seed=i)
        for i in range(count)
    ]


async def cpu_ms_per_group(num_engines: int) -> float:
    """Of pool, dispatcher and engines without processes."""
    engines = [InstantEngine(f"engine-{i}") for i in range(num_engines)]
    dispatcher = dispatcher_of(engines, max_sequences=NUM_IN_FLIGHT * GROUP_SIZE)
    prompts = prompts_of(max(NUM_GROUPS, NUM_GROUPS_PER_ENGINE * num_engines))
    pool = pool_of(dispatcher, [e.name for e in engines])
    # the garbage collector would visit the prompts, and all that the benchmark has imported
    gc.collect()
    gc.freeze()
    begin_s = time.process_time()
    await through(pool, prompts, num_callers=num_engines * (NUM_IN_FLIGHT + NUM_QUEUED))
    cpu_s = time.process_time() - begin_s
    gc.unfreeze()
    return 1000 * cpu_s / len(prompts)


def in_process(part: Part) -> dict[str, Any]:
    """CPU milliseconds per group by number of engines: medians of rounds in which the numbers alternate."""
    rounds: dict[int, list[float]] = {count: [] for count in NUM_ENGINES}
    with part.measurement(f"control plane in process, {ROUNDS} rounds"):
        asyncio.run(cpu_ms_per_group(1))
        for _ in range(ROUNDS):
            for count, measured in rounds.items():
                measured.append(asyncio.run(cpu_ms_per_group(count)))
    medians = {count: statistics.median(measured) for count, measured in rounds.items()}
    return {
        "cpu_ms_per_group": {f"{count} engines": value for count, value in medians.items()},
        "cpu_ms_per_group_max": max(medians.values()),
        "largest_over_smallest": max(medians.values()) / min(medians.values()),
    }


async def echo_rate(pool: RolloutPool, prompts: list[Prompt]) -> tuple[float, float]:
    """Groups per second, and the driver's CPU milliseconds per group."""
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    await through(pool, prompts, num_callers=NUM_ECHOES * (NUM_IN_FLIGHT + NUM_QUEUED))
    seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    return len(prompts) / seconds, 1000 * cpu_s / len(prompts)


def echo_actors(part: Part) -> dict[str, float]:
    """Groups per second through `EngineClient` and eight actors: the median of some rounds."""
    actor: Any = ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(EchoActor)
    names = [f"engine-{i}" for i in range(NUM_ECHOES)]
    handles = [actor.options(num_cpus=0.05).remote(name) for name in names]
    clients = [EngineClient(h, name=n, sampling=SAMPLING) for h, n in zip(handles, names, strict=True)]

    async def rates() -> list[tuple[float, float]]:
        pool = pool_of(dispatcher_of(clients, max_sequences=NUM_IN_FLIGHT * GROUP_SIZE), names)
        await through(pool, prompts_of(NUM_ECHO_GROUPS), num_callers=NUM_ECHOES)
        return [await echo_rate(pool, prompts_of(NUM_ECHO_GROUPS)) for _ in range(ROUNDS)]

    with part.measurement(f"{NUM_ECHOES} echo actors, {ROUNDS} rounds"):
        measured = asyncio.run(rates())
    for handle in handles:
        ray.kill(handle)
    return {
        "groups_per_s": statistics.median(rate for rate, _ in measured),
        "cpu_ms_per_group": statistics.median(cpu for _, cpu in measured),
    }
