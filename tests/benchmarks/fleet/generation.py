"""One real engine through the pool, against its `AsyncLLM` called directly inside the same actor process."""

import asyncio
import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import ray

from common.config.rollout import RolloutConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.types import Generation, MediaRef, ProcessedPrompt, Prompt, SamplingSpec
from rollout.actor import EngineClient
from rollout.pool import RolloutPool
from tests.benchmarks.part import Part
from tests.support.builders import make_draw
from tests.support.engines import start_engine
from tests.support.fleet import dispatcher_of
from tests.support.media.clips import case_named, processed

GROUP_SIZE = 8
CLIPS = ("av-8fps-odd-frames", "av-audio-longer", "video-only-odd-frames", "audio-only")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model, its load and its target."""

    hidden_size: int
    num_layers: int
    num_groups: int
    max_tokens: int
    rounds: int
    kv_cache_gib: float
    target: float


SIZES = {
    "toy": Size(
        hidden_size=128, num_layers=2, num_groups=16, max_tokens=64, rounds=7, kv_cache_gib=0.25, target=0.85
    ),
    "100 M parameters": Size(
        hidden_size=960, num_layers=12, num_groups=12, max_tokens=32, rounds=4, kv_cache_gib=1.5, target=0.95
    ),
}


def build(size: Size, folder: Path) -> str:
    return str(build_tiny_checkpoint(folder, hidden_size=size.hidden_size, num_layers=size.num_layers))


def prompts_of(model_path: str, count: int) -> list[ProcessedPrompt]:
    """Clips with sound and picture, none twice."""
    return [processed(case_named(CLIPS[i % len(CLIPS)]), model_path, seed=i) for i in range(count)]


def fresh(prompts: list[ProcessedPrompt], name: str) -> list[ProcessedPrompt]:
    """The same clips, which no cache of the engine knows: as in a run, each is encoded and prefilled once."""
    return [dataclasses.replace(prompt, clip_hash=f"{prompt.clip_hash}-{name}") for prompt in prompts]


async def pool_rate(
    client: EngineClient,
    prompts: list[ProcessedPrompt],
    sampling: SamplingSpec,
    *,
    config: RolloutConfig,
    seed: int,
) -> float:
    """Completion tokens per second of groups drawn through pool, client and actor."""
    pool = RolloutPool(
        dispatcher_of([client], max_sequences=2 * config.max_num_seqs),
        slots=[client.name],
        sampling=sampling,
        group_size=GROUP_SIZE,
        deadline_s=600.0,
    )
    draws = [
        # each has a seed range of its own
        Prompt(
            draw=make_draw(f"clip-{i}"), media=MediaRef(ray.put(p)), num_prompt_tokens=3, seed=seed + GROUP_SIZE * i
        )
        for i, p in enumerate(prompts)
    ]
    begin_s = time.perf_counter()
    answers = await asyncio.gather(*map(pool, draws))
    seconds = time.perf_counter() - begin_s
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return sum(len(c.token_ids) for answer in answers for c in answer.completions) / seconds


async def pairs(
    client: EngineClient, model: str, size: Size, config: RolloutConfig, part: Part
) -> dict[str, float]:
    """Both rates, alternated; the first pair warms up."""
    sampling = SamplingSpec(max_tokens=size.max_tokens)
    prompts = prompts_of(model, size.num_groups)
    await client.warm_up(prompts[:1])

    async def pool_side(number: int) -> float:
        clips = fresh(prompts, f"pool-{number}")
        return await pool_rate(client, clips, sampling, config=config, seed=100_000 * number)

    async def direct_side(number: int) -> float:
        return await client.handle.direct_rate.remote(
            fresh(prompts, f"direct-{number}"),
            sampling=sampling,
            group_size=GROUP_SIZE,
            seed=100_000 * number + 50_000,
        )

    rates: list[tuple[float, float]] = []
    for number in range(size.rounds + 1):
        with part.measurement(f"through the pool and directly, pair {number} of {size.rounds}"):
            # each side comes first in every second pair
            if number % 2:
                direct = await direct_side(number)
                rates.append((await pool_side(number), direct))
            else:
                rates.append((await pool_side(number), await direct_side(number)))
        part.say(f"  {rates[-1][0]:.0f} and {rates[-1][1]:.0f} tokens/s, ratio {rates[-1][0] / rates[-1][1]:.3f}")
    kept = rates[1:]
    return {
        "pool_tokens_per_s": statistics.median(a for a, _ in kept),
        "direct_tokens_per_s": statistics.median(b for _, b in kept),
        "pool_over_direct": statistics.median(a / b for a, b in kept),
        "pool_over_direct_lowest": min(a / b for a, b in kept),
        "pool_over_direct_highest": max(a / b for a, b in kept),
    }


def measure(name: str, part: Part) -> dict[str, Any]:
    """One size of `SIZES`."""
    size = SIZES[name]
    with part.measurement(f"{name}: checkpoint"):
        model = build(size, part.folder / name.replace(" ", "-"))
    config = RolloutConfig(max_model_len=1024, max_num_seqs=32, kv_cache_gib=size.kv_cache_gib)
    client = start_engine(model, config=config)
    try:
        rates = asyncio.run(pairs(client, model, size, config=config, part=part))
    finally:
        ray.get(client.handle.shutdown.remote())
        ray.kill(client.handle)
    return {"hidden_size": size.hidden_size, "num_layers": size.num_layers, **rates, "target": size.target}
