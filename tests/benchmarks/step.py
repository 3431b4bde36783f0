"""Where the time of one GRPO step goes, and what the actor in front of an engine costs.

    python -m tests.benchmarks.step [--check] [--minutes M]

Prints JSON. `phases_s` is the breakdown of a step (medians). Clips are decoded and processed as in a run: in a Ray
task with `OMP_NUM_THREADS=1`, after a first clip that is not counted. `actor_over_direct` is the rate of an engine
called through its Ray actor over that of the same kind of engine called in its own process, alternated in one run.
`--check` exits 1 where the ratio misses its target.
"""

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import ray

from common.config.data import DataConfig, SyntheticDataConfig
from common.config.learner import LearnerConfig, OptimizerConfig, PublishConfig
from common.config.questions import QUESTION
from common.config.reward import RewardConfig
from common.datasets.corpora.r1_omni import load_r1_omni
from common.datasets.synthetic.corpus import write_synthetic_corpus
from common.media.decode import decode_clip
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.models.registry import family_of
from common.prompts.probe_clips import probe_prompts
from common.runtime.peak_memory import MemorySampler
from common.types import Draw, Generation, Group, ProcessedPrompt, Prompt, Record, Sample, SamplingSpec
from deploy.wiring import process_env, start_ray
from learner.publishing.publisher import Publisher
from reward.request import requests_of
from reward.service import RewardService
from rollout.actor import EngineClient
from tests.benchmarks.part import Part, boxed, parser_of
from tests.support.engines import ENGINE, start_engine, start_ranks, stop_ranks
from tests.support.fakes import FakeFleet
from tests.support.habit import teach_habit

ROUNDS, NUM_GROUPS, GROUP_SIZE = 5, 8, 8
MINUTES = 8.0
SAMPLING = SamplingSpec(max_tokens=48)
TARGET_ACTOR_OVER_DIRECT = 0.75
"""A pass-through actor was measured at 0.78 to 0.90 on two cores that vLLM's processes fill already."""


class EngineInside:
    """The same engine, called where it lives: the load runs inside the actor's own process."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client

    async def rate(self, prompts: list[ProcessedPrompt], seed: int) -> float:
        """Completion tokens per second without a Ray call per group."""
        return await self.client.handle.direct_rate.remote(
            prompts, sampling=SAMPLING, group_size=GROUP_SIZE, seed=seed
        )


async def actor_rate(client: EngineClient, prompts: list[ProcessedPrompt], seed: int) -> float:
    """Completion tokens per second, one Ray call per group."""
    refs: list[Any] = [ray.put(p) for p in prompts]
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(
            client.generate(ref, sampling=SAMPLING, group_size=GROUP_SIZE, seed=seed + 64 * i, deadline_s=300)
            for i, ref in enumerate(refs)
        )
    )
    return _num_tokens(answers) / (time.perf_counter() - start)


def _num_tokens(answers: list[Any]) -> int:
    return sum(len(c.token_ids) for a in answers for c in a.completions)


def decode_and_process(
    records: list[Record], model_path: str, data: DataConfig
) -> tuple[list[ProcessedPrompt], dict[str, float]]:
    """Every clip in this process; medians of both phases, per clip. The first warms up."""
    prompts, decode_s, process_s = [], [], []
    for record in (records[0], *records):
        start = time.perf_counter()
        decoded = decode_clip(
            record.clip, max_fps=data.max_fps, max_frames=data.max_frames, max_audio_s=data.max_audio_s
        )
        middle = time.perf_counter()
        prompts.append(
            family_of(model_path).process_prompt(
                decoded,
                record.question,
                model_path=model_path,
                min_pixels=data.min_pixels,
                max_pixels=data.max_pixels,
            )
        )
        decode_s.append(middle - start)
        process_s.append(time.perf_counter() - middle)
    return prompts[1:], {"decode": statistics.median(decode_s[1:]), "process": statistics.median(process_s[1:])}


def as_group(record: Record, prompt: ProcessedPrompt, generation: Generation, scores: list[Any]) -> Group:
    """A group as the loop makes it."""
    ready = Prompt(
        draw=Draw(epoch=0, record=record, draw=0),
        media=ray.put(prompt),
        num_prompt_tokens=len(prompt.prompt_token_ids),
        seed=0,
    )
    samples = tuple(Sample(completion=c, score=s) for c, s in zip(generation.completions, scores, strict=True))
    return Group(prompt=ready, samples=samples, min_policy_version=0, engine=generation.engine)


async def measure(part: Part) -> dict[str, Any]:
    """One engine, one rank, several steps."""
    with part.measurement("model and corpus"):
        model = str(build_tiny_checkpoint(part.folder / "model"))
        teach_habit(Path(model), question=QUESTION, steps=60, seed=0)
        sizes = SyntheticDataConfig(
            type="synthetic", num_cold_start=0, num_train=NUM_GROUPS, num_validation=0, num_heldout=0
        )
        corpus = write_synthetic_corpus(part.folder / "corpus", sizes)
        records = load_r1_omni(corpus / "train.json", media_root=None, question=None, split="train")
        data = DataConfig(max_pixels=12_544)
    with part.measurement("Ray, media task"):
        start_ray()
        media_task: Any = ray.remote(decode_and_process).options(runtime_env={"env_vars": process_env(1)})
        prompts, per_clip = await media_task.remote(records, model, data)
    with part.measurement("start of engine and rank"):
        engine = start_engine(model, config=ENGINE)
        learner = LearnerConfig(zero_stage=2, optimizer=OptimizerConfig(lr=1e-4))
        ranks, info = start_ranks(model, config=learner)
        await engine.warm_up(prompts[:1])
    publisher = Publisher(
        senders=ranks,
        fleet=FakeFleet([engine]),
        plan=info["plan"],
        segments=info["segments"],
        probes=probe_prompts(family_of(model), model_path=model, data=data),
        sampling=SAMPLING,
        config=PublishConfig(),
        answer_deadline_s=ENGINE.answer_deadline_s,
        dtype="float32",
    )
    with part.measurement("rehearsal"):
        await publisher.start()
    service = RewardService(RewardConfig())
    rounds: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        with part.measurement(f"step {number + 1} of {ROUNDS}"):
            took_s = await one_step(engine, ranks, publisher, service, records, prompts, number)
        for name, value in took_s.items():
            rounds.setdefault(name, []).append(value)
    rates = await paired_rates(engine, prompts, part)
    stop_ranks(ranks)
    ray.get(engine.handle.shutdown.remote())
    phases = {name: statistics.median(values) for name, values in rounds.items()}
    return {
        "groups_per_step": NUM_GROUPS,
        "group_size": GROUP_SIZE,
        "prompt_tokens": [len(p.prompt_token_ids) for p in prompts],
        "phases_s": {**{k: v * NUM_GROUPS for k, v in per_clip.items()}, **phases},
        **rates,
    }


async def paired_rates(engine: EngineClient, prompts: list[ProcessedPrompt], part: Part) -> dict[str, float]:
    """Tokens per second through the actor and inside it, alternated; the first pair warms up."""
    direct = EngineInside(engine)
    pairs: list[tuple[float, float]] = []
    for i in range(ROUNDS + 1):
        with part.measurement(f"through the actor and inside it, pair {i} of {ROUNDS}"):
            through = await actor_rate(engine, prompts, 10_000 * i)
            pairs.append((through, await direct.rate(prompts, 10_000 * i + 5_000)))
    return {
        "actor_tokens_per_s": statistics.median(a for a, _ in pairs[1:]),
        "direct_tokens_per_s": statistics.median(d for _, d in pairs[1:]),
        "actor_over_direct": statistics.median(a / d for a, d in pairs[1:]),
    }


async def one_step(
    engine: EngineClient,
    ranks: Any,
    publisher: Publisher,
    service: RewardService,
    records: Any,
    prompts: Any,
    number: int,
) -> dict[str, float]:
    """Seconds of each phase after the media stage."""
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(
            engine.generate(
                p, sampling=SAMPLING, group_size=GROUP_SIZE, seed=1000 * number + 64 * i, deadline_s=300
            )
            for i, p in enumerate(prompts)
        )
    )
    generated = time.perf_counter()
    scores = [
        (await service.score_requests(requests_of(r, a.completions))).scores
        for r, a in zip(records, answers, strict=True)
    ]
    rewarded = time.perf_counter()
    groups = [as_group(*parts) for parts in zip(records, prompts, answers, scores, strict=True)]
    metrics = await ranks.train(groups)
    report = await publisher.publish()
    return {
        "encode_and_generate": generated - start,
        "reward": rewarded - generated,
        **{k.removeprefix("seconds/"): v for k, v in metrics.items() if k.startswith("seconds/")},
        **{f"publish/{k}": v for k, v in report.seconds.items()},
    }


def main() -> int:
    """Measures, prints, and checks when asked to."""
    arguments = parser_of(__doc__, minutes=MINUTES).parse_args()
    with boxed("step", minutes=arguments.minutes) as part, MemorySampler() as memory:
        result = asyncio.run(measure(part))
    result["peak_memory_bytes"] = memory.peak_bytes
    result["target_actor_over_direct"] = TARGET_ACTOR_OVER_DIRECT
    print(json.dumps(result, indent=1))
    return 1 if arguments.check and result["actor_over_direct"] < TARGET_ACTOR_OVER_DIRECT else 0


if __name__ == "__main__":
    sys.exit(main())
