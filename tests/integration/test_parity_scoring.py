"""What an engine says of a text's likelihood is what transformers says: the learner's own log-probabilities.

The file's name puts it before those that publish: from then on the shared engine has other weights.
"""

import asyncio

import pytest
import ray
import torch

from common.models.qwen2_5_omni.policy import load_policy
from common.models.qwen2_5_omni.processor import encode_text
from common.models.tokens import pack_tokens
from common.types import Failure, MediaRef, ProcessedPrompt
from rollout.actor import EngineClient
from tests.integration.conftest import Run
from tests.support.engines import ENGINE, SAMPLING
from tests.support.media.clips import CASES, ClipCase, case_named, processed

TOLERANCE = 1e-3
DEADLINE_S = 120.0
PREFIXES = ("<answer>", "<think>The voice trembles, and she looks away.</think>\n<answer>")
TEXT = "surprise</answer>"


def scored(
    run: Run,
    engine: EngineClient,
    prompt: ProcessedPrompt | MediaRef,
    *,
    prefix: tuple[int, ...],
    text: tuple[int, ...],
) -> float | Failure:
    """One question."""
    return run(engine.score(prompt, prefix_ids=prefix, text_ids=text, deadline_s=DEADLINE_S))


def expected(path: str, prompt: ProcessedPrompt, prefix: tuple[int, ...], text: tuple[int, ...]) -> float:
    """transformers' sum, float32, over the tokens of the text alone."""
    policy = load_policy(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logprobs, _ = policy(pack_tokens([prompt], [[(*prefix, *text)]], pad_token_id=0))
    return float(logprobs[0, len(prefix) :].double().sum())


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_text_is_as_likely_as_transformers_finds_it(
    case: ClipCase, prefix: str, run: Run, engine_untied: EngineClient, untied: str
) -> None:
    prompt = processed(case, untied)
    before, text = encode_text(prefix, model_path=untied), encode_text(TEXT, model_path=untied)
    assert len(text) > 1
    found = scored(run, engine_untied, prompt, prefix=before, text=text)
    assert found == pytest.approx(expected(untied, prompt, before, text), abs=TOLERANCE)


def test_a_prompt_that_was_answered_before_is_scored_whole(
    run: Run, engine_untied: EngineClient, untied: str
) -> None:
    """Its cached prefix has no log-probabilities to give."""
    prompt = processed(case_named("av-12fps"), untied, seed=5)
    before, text = encode_text(PREFIXES[0], model_path=untied), encode_text(TEXT, model_path=untied)
    run(engine_untied.generate(prompt, sampling=SAMPLING, group_size=2, seed=1, deadline_s=DEADLINE_S))
    found = [scored(run, engine_untied, prompt, prefix=before, text=text) for _ in range(2)]
    assert found == [pytest.approx(expected(untied, prompt, before, text), abs=TOLERANCE)] * 2


def test_questions_in_one_engine_batch_and_beside_a_group_are_answered_as_if_alone(
    run: Run, engine_untied: EngineClient, untied: str
) -> None:
    prompts = [processed(case, untied, seed=seed) for seed, case in enumerate(CASES[:4])]
    before, text = encode_text(PREFIXES[0], model_path=untied), encode_text(TEXT, model_path=untied)

    async def ask() -> list[object]:
        group = engine_untied.generate(prompts[0], sampling=SAMPLING, group_size=4, seed=3, deadline_s=DEADLINE_S)
        return await asyncio.gather(
            group,
            *(engine_untied.score(p, prefix_ids=before, text_ids=text, deadline_s=DEADLINE_S) for p in prompts),
        )

    _, *found = run(ask())
    assert found == [pytest.approx(expected(untied, p, before, text), abs=TOLERANCE) for p in prompts]


def test_alone_the_same_question_has_the_same_bits_whatever_went_before(
    run: Run, engine_untied: EngineClient, untied: str
) -> None:
    media = MediaRef(ray.put(processed(case_named("av-12fps"), untied, seed=9)))
    others = [processed(case, untied, seed=40 + seed) for seed, case in enumerate(CASES[:4])]
    before, text = encode_text(PREFIXES[1], model_path=untied), encode_text(TEXT, model_path=untied)

    async def ask() -> float | Failure:
        return await engine_untied.score(
            media, prefix_ids=before, text_ids=text, deadline_s=DEADLINE_S, is_alone=True
        )

    async def together() -> list[float | Failure]:
        await engine_untied.generate_together(
            [*others, media], sampling=SAMPLING, group_size=2, seeds=[1] * 5, deadline_s=DEADLINE_S
        )
        return list(await asyncio.gather(*(ask() for _ in range(3))))

    first = run(ask())
    assert isinstance(first, float)
    assert run(together()) == [first] * 3


def test_what_does_not_fit_is_a_failure_with_a_name(run: Run, engine_untied: EngineClient, untied: str) -> None:
    prompt = processed(case_named("av-12fps"), untied)
    room = ENGINE.max_model_len - len(prompt.prompt_token_ids)
    fits = scored(run, engine_untied, prompt, prefix=(5,) * (room - 3), text=(6, 7))
    assert isinstance(fits, float)
    late = scored(run, engine_untied, prompt, prefix=(5,) * (room - 2), text=(6, 7))
    assert isinstance(late, Failure)
    assert (late.stage, late.reason) == ("rollout", "too-long")


def test_a_question_waits_while_the_engine_is_paused(run: Run, engine_untied: EngineClient, untied: str) -> None:
    prompt = processed(case_named("av-12fps"), untied)

    async def ask(deadline_s: float) -> float | Failure:
        return await engine_untied.score(prompt, prefix_ids=(5,), text_ids=(6, 7), deadline_s=deadline_s)

    async def paused() -> tuple[float | Failure, float | Failure]:
        await engine_untied.pause()
        try:
            late = await ask(0.5)
            waiting = asyncio.create_task(ask(DEADLINE_S))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        finally:
            await engine_untied.resume()
        return late, await waiting

    late, answered = run(paused())
    assert isinstance(late, Failure)
    assert late.reason == "deadline"
    assert isinstance(answered, float)
