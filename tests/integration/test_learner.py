"""World sizes and ZeRO stages compute the same step; no rank hangs the others."""

import random
from dataclasses import dataclass
from typing import Any, cast

import pytest
import ray
import torch

from common.config.learner import LearnerConfig, OptimizerConfig
from common.models.qwen2_5_omni.policy import load_policy
from common.models.tokens import pack_tokens
from common.types import Clip, Completion, Draw, Group, ProcessedPrompt, Prompt, Record, Sample, Score
from learner.actor import RankClients
from learner.training.batch import TrainGroup, train_group
from tests.integration.conftest import Run
from tests.support.engines import start_ranks, stop_ranks
from tests.support.media.clips import case_named, processed
from tests.support.ranks import on_ranks, recorded, share_of, start

RELATIVE = 1e-5
BETA, CLIP, LR = 0.04, 0.2, 1e-4


def recorded_groups(model_path: str, names: list[str], *, seed: int = 0) -> list[Group]:
    """Groups of four completions of unequal length and reward."""
    rng = random.Random(seed)
    groups = []
    for index, name in enumerate(names):
        prompt = processed(case_named(name), model_path, seed=index)
        samples = tuple(_sample(rng) for _ in range(4))
        groups.append(_group(name, prompt, samples))
    return groups


def _sample(rng: random.Random) -> Sample:
    ids = tuple(rng.randrange(20, 380) for _ in range(rng.randint(3, 20)))
    completion = Completion(
        token_ids=ids,
        rollout_logprobs=tuple(-rng.uniform(0.5, 9.0) for _ in ids),
        text="",
        finish_reason="stop",
        version_spans=(),
    )
    return Sample(completion=completion, score=Score(total=rng.choice((0.0, 1.0, 2.0)), breakdown={}))


def _group(name: str, prompt: ProcessedPrompt, samples: tuple[Sample, ...]) -> Group:
    clip = Clip(clip_id=name, video_path=None, audio_path=None)
    record = Record(prompt_id=name, clip=clip, question="", label="", dataset="", split="")
    ready = Prompt(
        draw=Draw(epoch=0, record=record, draw=0),
        media=ray.put(prompt),
        num_prompt_tokens=len(prompt.prompt_token_ids),
        seed=0,
    )
    return Group(prompt=ready, samples=samples, min_policy_version=0, engine="none")


@dataclass(frozen=True)
class PlainStep:
    """One step in one process."""

    loss: float
    grad_norm: float
    before: torch.Tensor
    """Log-probabilities of the first group's completions."""
    after: torch.Tensor
    """The same once AdamW has stepped."""


def reference_step(model_path: str, groups: list[Group]) -> PlainStep:
    """One step in plain torch, a completion at a time.

    The reference policy equals the policy, so the KL and its gradient are zero; `old_logprobs` are the
    sampler's, so the ratio is not 1.
    """
    policy = load_policy(model_path, dtype=torch.float32)
    num_sequences = sum(len(g.samples) for g in groups)
    total = 0.0
    for group in groups:
        prepared = train_group(group, ray.get(group.prompt.media))
        for ids, old, advantage in zip(
            prepared.token_ids, prepared.rollout_logprobs, prepared.advantages, strict=True
        ):
            logprobs, _ = policy(pack_tokens([prepared.prompt], [[ids]], pad_token_id=0))
            ratio = torch.exp(logprobs[0] - torch.tensor(old))
            per_token = -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
            loss = per_token.mean() / num_sequences
            loss.backward()
            total += float(loss.detach())
    before = _first_logprobs(policy, groups)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    torch.optim.AdamW(policy.parameters(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0).step()
    return PlainStep(loss=total, grad_norm=float(norm), before=before, after=_first_logprobs(policy, groups))


def _first_logprobs(policy: Any, groups: list[Group]) -> torch.Tensor:
    prompt = ray.get(groups[0].prompt.media)
    with torch.no_grad():
        return torch.cat(
            [
                policy(pack_tokens([prompt], [[s.completion.token_ids]], pad_token_id=0))[0][0]
                for s in groups[0].samples
            ]
        )


def config(num_ranks: int, zero_stage: Any, **changes: Any) -> LearnerConfig:
    """A learner whose ratio leaves 1."""
    return LearnerConfig(
        num_ranks=num_ranks,
        zero_stage=zero_stage,
        old_logprobs="rollout",
        beta=BETA,
        max_rows_per_micro_batch=2,
        optimizer=OptimizerConfig(lr=LR, schedule="constant"),
        **changes,
    )


@pytest.fixture(scope="module")
def groups(local_ray: None, untied: str) -> list[Group]:
    """Every modality, so that one rank's share lacks some."""
    return recorded_groups(untied, ["av-8fps-odd-frames", "video-only-one-frame", "audio-only", "text-only"])


@pytest.fixture(scope="module")
def expected(untied: str, groups: list[Group]) -> PlainStep:
    """The plain step."""
    return reference_step(untied, groups)


def train(run: Run, model_path: str, settings: LearnerConfig, groups: list[Group]) -> tuple[dict[str, float], Any]:
    """One step on fresh ranks, and the log-probabilities after it."""
    ranks, _ = start_ranks(model_path, config=settings)
    try:
        metrics = run(ranks.train(groups))
        prompt = ray.get(groups[0].prompt.media)
        scores = run(ranks.score([prompt], [[s.completion.token_ids for s in groups[0].samples]]))
        return metrics, torch.tensor([x for row in scores[0] for x in row])
    finally:
        stop_ranks(ranks)


def assert_same_step(expected: PlainStep, metrics: dict[str, float], after: torch.Tensor) -> None:
    """Loss, gradient norm and what the step did to log-probabilities."""
    assert metrics["learner/loss"] == pytest.approx(expected.loss, rel=RELATIVE)
    assert metrics["learner/grad_norm"] == pytest.approx(expected.grad_norm, rel=RELATIVE)
    moved = float((expected.after - expected.before).abs().mean())
    assert moved > 1e-3, "a step that moves nothing shows nothing"
    # AdamW's first step is the gradient's sign: where that is rounding, so is the step
    assert float((after - expected.after).abs().mean()) < 0.02 * moved


NUM_STEPS = 10
DECAY = 0.1
SETTINGS: list[dict[str, Any]] = [
    *({"zero_stage": stage} for stage in (0, 1, 2, 3)),
    {"zero_stage": 0, "gradient_checkpointing": True},
    {"zero_stage": 3, "gradient_checkpointing": True, "offload": "parameters"},
    {"zero_stage": 2, "reference": "offloaded", "max_tokens_per_micro_batch": 400},
    *({"zero_stage": stage, "max_logits": 2_000} for stage in (0, 3)),
]
"""Of the configuration, but for `max_logits`: with so few, they are made in chunks."""


@pytest.fixture(scope="module")
def recorded_batches(untied: str) -> list[list[TrainGroup]]:
    """Two batches of every modality, so that one rank's share lacks some."""
    names = ["av-8fps-odd-frames", "video-only-one-frame", "audio-only", "text-only"]
    return [recorded(untied, names, seed=1, size=3), recorded(untied, names[::-1], seed=2, size=3)]


@pytest.fixture(scope="module")
def plain_steps(untied: str, recorded_batches: list[list[TrainGroup]]) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step in plain torch, a completion at a time."""
    policy = load_policy(untied, dtype=torch.float32)
    reference = load_policy(untied, dtype=torch.float32).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in policy.parameters() if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in policy.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=LR,
    )
    steps: list[tuple[float, float]] = []
    for step in range(NUM_STEPS):
        groups = recorded_batches[step % 2]
        num_sequences = sum(len(g.token_ids) for g in groups)
        total = 0.0
        for group in groups:
            for ids, old, advantage in zip(group.token_ids, group.rollout_logprobs, group.advantages, strict=True):
                tokens = pack_tokens([group.prompt], [[ids]], pad_token_id=0)
                logprobs, frozen = policy(tokens)[0][0], reference(tokens)[0][0]
                ratio = torch.exp(logprobs - torch.tensor(old))
                per_token = -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
                per_token = per_token + BETA * (torch.exp(frozen - logprobs) - (frozen - logprobs) - 1)
                loss = per_token.mean() / num_sequences
                loss.backward()
                total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps.append((total, float(norm)))
    return steps


def ten_steps(model_path: str, batches: list[list[TrainGroup]]) -> list[list[tuple[float, float]]]:
    """Loss and gradient norm of each step under each setting."""
    found: list[list[tuple[float, float]]] = []
    for changes in SETTINGS:
        settings = config(1, **{key: value for key, value in changes.items() if key != "max_logits"})
        optimizer = settings.optimizer.model_copy(update={"weight_decay": DECAY})
        engine = start(model_path, settings.model_copy(update={"optimizer": optimizer}))
        if "max_logits" in changes:
            cast(Any, engine._module).max_logits = changes["max_logits"]
        metrics = [engine.train_step(share_of(batches[step % 2], engine)) for step in range(NUM_STEPS)]
        found.append([(m["learner/loss"], m["learner/grad_norm"]) for m in metrics])
    return found


@pytest.mark.parametrize("num_ranks", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 4))])
def test_every_world_size_and_zero_stage_takes_the_plain_steps(
    num_ranks: int,
    untied: str,
    recorded_batches: list[list[TrainGroup]],
    plain_steps: list[tuple[float, float]],
) -> None:
    assert abs(plain_steps[0][0] / plain_steps[8][0] - 1) > 0.1, "steps that move nothing show nothing"
    for answer in on_ranks(num_ranks, ten_steps, untied, recorded_batches):
        for changes, steps in zip(SETTINGS, answer, strict=True):
            assert steps[0] == pytest.approx(plain_steps[0], rel=RELATIVE), changes
            assert steps[-1] == pytest.approx(plain_steps[-1], rel=1e-3), changes


def test_a_rank_with_nothing_to_do_does_not_hang_zero_3(run: Run, untied: str, groups: list[Group]) -> None:
    alone, after_alone = train(run, untied, config(1, 3), groups[:1])
    idle, after_idle = train(run, untied, config(2, 3), groups[:1])
    assert idle["learner/loss"] == pytest.approx(alone["learner/loss"], rel=RELATIVE)
    assert idle["learner/grad_norm"] == pytest.approx(alone["learner/grad_norm"], rel=RELATIVE)
    assert_same_step(reference_step(untied, groups[:1]), alone, after_alone)
    assert_same_step(reference_step(untied, groups[:1]), idle, after_idle)


@pytest.mark.parametrize("names", [["text-only", "av-8fps-odd-frames"], ["audio-only", "video-only-one-frame"]])
def test_a_rank_without_a_modality_does_not_hang_zero_3(names: list[str], run: Run, untied: str) -> None:
    mixed = recorded_groups(untied, names, seed=4)
    metrics, after = train(run, untied, config(2, 3), mixed)
    assert_same_step(reference_step(untied, mixed), metrics, after)


def test_several_updates_on_one_batch_leave_the_ratio_and_clip(run: Run, untied: str, groups: list[Group]) -> None:
    settings = LearnerConfig(
        updates_per_step=3,
        beta=0.0,
        clip_low=0.05,
        clip_high=0.05,
        optimizer=OptimizerConfig(lr=3e-3, schedule="constant"),
    )
    metrics, _ = train(run, untied, settings, groups)
    assert metrics["learner/clip_fraction"] > 0
    once, _ = train(run, untied, settings.model_copy(update={"updates_per_step": 1}), groups)
    assert once["learner/clip_fraction"] == 0
    assert metrics["learner/loss"] == pytest.approx(once["learner/loss"], rel=RELATIVE)


@pytest.mark.long
def test_a_perturbation_is_taken_back_bit_for_bit_under_every_stage(run: Run, untied: str) -> None:
    for stage in (0, 2, 3):
        ranks, info = start_ranks(untied, config=config(2, stage))
        try:
            before = run(_manifest(ranks, info))
            run(ranks.perturb(scale=0.05, nonce=3, names=None))
            moved = run(_manifest(ranks, info))
            layer = info["plan"].layers[-1]
            run(ranks.restore(names=layer))
            without = run(_manifest(ranks, info))
            run(ranks.perturb(scale=0.05, nonce=3, names=layer))
            again = run(_manifest(ranks, info))
            run(ranks.restore())
            after = run(_manifest(ranks, info))
        finally:
            stop_ranks(ranks)
        assert after == before
        assert again == moved
        assert without == [b if b.name in layer else m for b, m in zip(before, moved, strict=True)]
        assert all(a.digest != b.digest for a, b in zip(before, moved, strict=True)), "every tensor must move"


async def _manifest(ranks: RankClients, info: dict[str, Any]) -> list[Any]:
    receipts = []
    for bucket in range(len(info["plan"].buckets)):
        receipts += await ranks.send_bucket(bucket)
    return receipts
