"""The GRPO loop, to be read aloud: collect groups, train on them, publish, record.

`run_steps` consumes draws of the prompt stream and produces policy versions. It waits for
`collect_groups`, for the ranks and for the publisher, in that order, and is unblocked by each of them
within its own deadline. With `max_staleness` 0 nothing is in flight while it trains or publishes.

`collect_groups` consumes draws and produces groups. It waits for media tasks, engines and the reward
service, all draws of a step at once; a draw that fails is a reason in the ledger and another takes its
place. At most `groups_per_step` draws are in flight, which bounds memory.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from common.errors import DatasetError
from common.metrics import distribution
from common.protocols import GenerateFn, PrepareFn, ScoreFn, TrainFn
from common.types import Draw, Failure, Group, Prompt, Sample, StepReport
from learner.ledger import Ledger
from learner.publisher import Publisher, PublishReport
from learner.stream import PromptStream, group_seed

logger = logging.getLogger(__name__)
T = TypeVar("T")


class StepRecorder(Protocol):
    """Takes what each step leaves behind."""

    def __call__(
        self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport
    ) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopParts:
    """Everything the loop talks to."""

    stream: PromptStream
    prepare: PrepareFn
    generate: GenerateFn
    score: ScoreFn
    train: TrainFn
    publisher: Publisher
    ledger: Ledger
    record: StepRecorder
    seed: int
    groups_per_step: int
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of the current step, by phase; sums over draws for `media`, `generate` and `reward`."""


async def run_steps(parts: LoopParts, *, steps: int) -> None:
    """Trains for a number of steps.

    Raises:
        DatasetError: not one of the corpus's clips could be used.
        PublishError: an engine does not hold what the learner sent.
        LearnerError: a rank failed.
        EngineError: an engine died.
        RewardError: the reward service died.
    """
    try:
        for step in range(1, steps + 1):
            await run_step(parts, step)
    finally:
        # what became of a step's draws before it failed is what one looks for afterwards
        parts.ledger.commit()


async def run_step(parts: LoopParts, step: int) -> None:
    """Collects, trains, publishes, records."""
    parts.seconds.clear()
    groups = await timed(parts, "rollout", collect_groups(parts))
    learned = await timed(parts, "learn", parts.train(groups))
    published = await timed(parts, "publish", parts.publisher.publish())
    for group in groups:
        parts.ledger.trained(group.prompt.draw, step=step)
    report = StepReport(
        policy_version=published.version,
        metrics=learned | group_metrics(groups, learner_version=published.version - 1),
        seconds=dict(parts.seconds),
    )
    parts.ledger.commit()
    parts.record(step, groups, report, published)


async def collect_groups(parts: LoopParts) -> list[Group]:
    """Asks draws until a batch of groups is there, in the order of the stream.

    Raises:
        DatasetError: every clip of the corpus failed, or since the last group as many draws as may lie between
            two groups of a corpus with one good clip.
    """
    groups: list[Group] = []
    num_failed = 0
    while len(groups) < parts.groups_per_step:
        draws = parts.stream.take(parts.groups_per_step - len(groups))
        answers = await asyncio.gather(*(ask(parts, draw) for draw in draws))
        for draw, answer in zip(draws, answers, strict=True):
            if isinstance(answer, Failure):
                num_failed += 1
                logger.warning("draw %s failed: %s: %s", draw.key, answer.reason, answer.detail)
                parts.ledger.failed(draw, answer)
            else:
                groups.append(answer)
                num_failed = 0
        has_worked = groups or parts.ledger.num_trained
        if num_failed >= len(parts.stream) * (2 if has_worked else 1):
            parts.ledger.commit()
            raise DatasetError(_only_failures(parts.ledger))
    return groups


REMEDIES = {
    "media": "check data.source.media_root and the files",
    "rollout": "raise rollout.deadline_s or rollout.max_model_len, or lower the clips' limits under data",
    "reward": "check the rewards",
}


def _only_failures(ledger: Ledger) -> str:
    reasons = ", ".join(f"{reason} x{count}" for reason, count in ledger.failures.items())
    stage = ledger.failures.most_common(1)[0][0].split("/")[0]
    return f"some draw must come to a group, got only failures: {reasons}; {REMEDIES[stage]}; see {ledger.path}"


async def ask(parts: LoopParts, draw: Draw) -> Group | Failure:
    """One draw's way: media, rollout, reward."""
    parts.ledger.event(draw, "asked")
    prepared = await timed(parts, "media", parts.prepare(draw.record))
    if isinstance(prepared, Failure):
        return prepared
    media, num_tokens = prepared
    prompt = Prompt(draw=draw, media=media, num_prompt_tokens=num_tokens, seed=group_seed(parts.seed, draw))
    generation = await timed(parts, "generate", parts.generate(prompt))
    if isinstance(generation, Failure):
        return generation
    parts.ledger.event(draw, "generated", engine=generation.engine, version=generation.min_policy_version)
    scores = await timed(parts, "reward", parts.score(draw.record, generation.completions))
    if isinstance(scores, Failure):
        return scores
    parts.ledger.event(draw, "scored", mean=sum(s.total for s in scores) / len(scores))
    return Group(
        prompt=prompt,
        samples=tuple(Sample(completion=c, score=s) for c, s in zip(generation.completions, scores, strict=True)),
        min_policy_version=generation.min_policy_version,
        engine=generation.engine,
    )


async def timed(parts: LoopParts, phase: str, work: Awaitable[T]) -> T:
    """Awaits, adding the seconds to the step's phase."""
    start = time.perf_counter()
    try:
        return await work
    finally:
        parts.seconds[phase] += time.perf_counter() - start


def group_metrics(groups: Sequence[Group], *, learner_version: int) -> dict[str, float]:
    """What a batch of groups looks like: rewards, lengths, staleness."""
    samples = [s for g in groups for s in g.samples]
    names = samples[0].score.breakdown
    equal = sum(len({s.score.total for s in g.samples}) == 1 for g in groups)
    metrics = distribution("reward/total", [s.score.total for s in samples])
    for name in names:
        metrics[f"reward/{name}/mean"] = sum(s.score.breakdown[name] for s in samples) / len(samples)
    metrics |= distribution("rollout/length", [float(len(s.completion.token_ids)) for s in samples])
    metrics |= distribution("rollout/staleness", [float(learner_version - g.min_policy_version) for g in groups])
    metrics["rollout/truncated_fraction"] = sum(s.completion.finish_reason == "length" for s in samples) / len(
        samples
    )
    metrics["reward/equal_groups_fraction"] = equal / len(groups)
    return metrics
