"""The supervised stage: the policy learns to answer as the corpus does, before rewards take over.

`train_supervised` consumes clips with responses and produces optimizer steps. It waits for media tasks and for the
ranks, each within its deadline; a clip that cannot be used is a reason in the ledger and the next takes its place.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from common.errors import DatasetError
from common.metrics import MetricsFile
from common.protocols import PrepareFn
from common.types import Draw, Failure, MediaRef
from learner.ledger import Ledger
from learner.record import StepDisplay
from learner.stream import PromptStream

logger = logging.getLogger(__name__)


class SuperviseFn(Protocol):
    """One supervised step over all ranks; its metrics, `sft/...`."""

    def __call__(self, prompts: Sequence[MediaRef], completions: Sequence[str]) -> Awaitable[dict[str, float]]: ...


async def train_supervised(
    *,
    stream: PromptStream,
    prepare: PrepareFn,
    train: SuperviseFn,
    ledger: Ledger,
    metrics: MetricsFile,
    display: StepDisplay,
    steps: int,
    examples_per_step: int,
    should_stop: Callable[[], None],
) -> None:
    """Takes the steps.

    Args:
        stream: of clips with a response.
        prepare: the media stage.
        train: all ranks.
        ledger: takes what became of each draw.
        metrics: takes a line per step.
        display: shows each step.
        steps: to take.
        examples_per_step: clips of one step.
        should_stop: raises where the run was asked to stop.

    Raises:
        DatasetError: not one clip could be used.
        LearnerError: a rank failed.
    """
    for step in range(1, steps + 1):
        should_stop()
        draws, prompts = await _collect(stream, prepare, ledger, examples_per_step)
        learned = await train(prompts, [draw.record.response or draw.record.label for draw in draws])
        for draw in draws:
            ledger.trained(draw, step=step)
        ledger.stepped(step, outstanding=[])
        ledger.commit()
        metrics.write(step, learned)
        display.step(step, f"loss {learned['sft/loss']:.3f}  gradient {learned['sft/grad_norm']:.2f}")


async def _collect(
    stream: PromptStream, prepare: PrepareFn, ledger: Ledger, count: int
) -> tuple[list[Draw], list[MediaRef]]:
    draws: list[Draw] = []
    prompts: list[MediaRef] = []
    num_failed = 0
    while len(draws) < count:
        asked = [stream.next() for _ in range(count - len(draws))]
        for draw in asked:
            ledger.event(draw, "asked")
        answers = await asyncio.gather(*(prepare(draw.record) for draw in asked))
        for draw, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Failure):
                num_failed += 1
                logger.warning("draw %s failed: %s: %s", draw.key, answer.reason, answer.detail)
                ledger.failed(draw, answer)
            else:
                num_failed = 0
                draws.append(draw)
                prompts.append(answer[0])
        if num_failed >= 2 * len(stream):
            ledger.commit()
            reasons = ", ".join(f"{reason} x{number}" for reason, number in ledger.failures.items())
            raise DatasetError(f"some clip of data.cold_start must be usable, got only failures: {reasons}")
    return draws, prompts
