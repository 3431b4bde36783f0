"""Real engines in lockstep: the same batch gives the same bits, whatever was asked before and however it comes."""

import asyncio
import dataclasses
from typing import Any

import pytest
import ray

from common.errors import EngineError
from common.types import Failure, Generation, ProcessedPrompt
from rollout.actor import EngineClient
from tests.integration.conftest import Run
from tests.support.engines import SAMPLING
from tests.support.media.clips import case_named, processed

NAMES = ["av-12fps", "av-8fps-odd-frames", "audio-only", "video-only-one-frame", "text-only", "av-12fps"]
SETTINGS: dict[str, Any] = {"sampling": SAMPLING, "group_size": 8, "deadline_s": 300.0}
Bits = list[list[tuple[tuple[int, ...], tuple[float, ...]]]]


def prompts_of(model_path: str) -> list[ProcessedPrompt]:
    """Every modality; the first clip comes twice."""
    return [processed(case_named(name), model_path, seed=i % 5) for i, name in enumerate(NAMES)]


def bits(answers: list[Generation | Failure]) -> Bits:
    """Tokens and log-probabilities."""
    assert not [a for a in answers if isinstance(a, Failure)]
    return [
        [(c.token_ids, c.rollout_logprobs) for c in a.completions] for a in answers if isinstance(a, Generation)
    ]


def test_a_batch_in_lockstep_repeats_bit_for_bit(run: Run, engine_untied: EngineClient, untied: str) -> None:
    prompts, seeds = prompts_of(untied), [1_000 * i for i in range(len(NAMES))]

    async def together(media: list[Any]) -> Bits:
        return bits(await engine_untied.generate_together(media, seeds=seeds, **SETTINGS))

    async def work() -> None:
        first = await together(prompts)
        # leaves prefixes and encoded clips behind, made in batches of one
        for prompt in prompts:
            await engine_untied.generate(prompt, seed=7, **SETTINGS)
        assert await together(prompts) == first
        assert await together([ray.put(p) for p in prompts]) == first
        # two batches at once come one after the other
        assert await asyncio.gather(together(prompts), together(prompts)) == [first, first]

    run(work())


def test_a_prompt_that_does_not_fit_fails_alone(run: Run, engine_untied: EngineClient, untied: str) -> None:
    short = processed(case_named("text-only"), untied)
    long = ProcessedPrompt(prompt_token_ids=(5,) * 1_020, tensors={}, placeholders={}, clip_hash="long")
    answers = run(engine_untied.generate_together([long, short], seeds=[1, 2], **SETTINGS))
    assert isinstance(answers[0], Failure)
    assert answers[0].reason == "too-long"
    assert isinstance(answers[1], Generation)
    assert len(answers[1].completions) == 8


def test_a_batch_past_its_deadline_fails_and_the_next_is_whole(
    run: Run, engine_untied: EngineClient, untied: str
) -> None:
    prompts = prompts_of(untied)
    late = run(
        engine_untied.generate_together(
            prompts, seeds=[0] * len(prompts), sampling=SAMPLING, group_size=8, deadline_s=0.001
        )
    )
    assert {a.reason for a in late if isinstance(a, Failure)} == {"deadline"}
    again = run(engine_untied.generate_together(prompts, seeds=[0] * len(prompts), **SETTINGS))
    assert len(bits(again)) == len(prompts)


def test_a_batch_that_cannot_be_queued_whole_leaves_nothing_behind(
    run: Run, engine_untied: EngineClient, untied: str
) -> None:
    short = processed(case_named("text-only"), untied)
    unknown = ProcessedPrompt(prompt_token_ids=(10**9,), tensors={}, placeholders={}, clip_hash="unknown")
    settings = SETTINGS | {"sampling": dataclasses.replace(SAMPLING, max_tokens=800)}

    async def work() -> None:
        with pytest.raises(EngineError, match="out of vocabulary"):
            await engine_untied.generate_together([short, short, unknown], seeds=[1, 2, 3], **settings)
        assert await engine_untied.handle.num_unfinished.remote() == 0
        # and the next batch finds the caches idle
        assert len(bits(await engine_untied.generate_together([short], seeds=[1], **SETTINGS))) == 1

    run(work())
