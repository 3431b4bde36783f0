"""The supervised stage: the policy learns to answer as the corpus does, before rewards take over.

`SftLoop` consumes clips with responses and produces optimizer steps. It waits for media tasks, for the
ranks and for checkpoints, each within its deadline. A clip that cannot be used is a reason in the ledger, and the
next takes its place.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from common.errors import DatasetError
from common.protocols import PrepareFn
from common.types import Draw, Failure, MediaRef
from learner.checkpoints.checkpoint import RunState
from learner.ledger import Ledger
from learner.loops.failure_tracker import FailureTracker
from learner.loops.grpo_loop import SaveCheckpointFn
from learner.loops.non_finite import REASON, NonFiniteGuard
from learner.loops.stream import PromptStream
from learner.records.record import StepDisplay

logger = logging.getLogger(__name__)


class SftTrainFn(Protocol):
    """One supervised step over all ranks; its metrics, `sft/...`."""

    def __call__(self, prompts: Sequence[MediaRef], completions: Sequence[str]) -> Awaitable[dict[str, float]]: ...


class MetricsWriter(Protocol):
    """Takes a line per step."""

    def write(self, step: int, metrics: dict[str, float]) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SftParts:
    """Everything the loop talks to."""

    stream: PromptStream
    """Of clips with a response."""
    prepare: PrepareFn
    train: SftTrainFn
    ledger: Ledger
    metrics: MetricsWriter
    display: StepDisplay
    save_checkpoint: SaveCheckpointFn
    should_stop: Callable[[], None]
    """Raises where the run was asked to stop."""
    examples_per_step: int
    steps_per_checkpoint: int
    max_non_finite_steps: int


class SftLoop:
    """Trains from a state to a last step.

    Attributes:
        state: after the last step that is whole.
    """

    def __init__(self, *, parts: SftParts, state: RunState, last_step: int) -> None:
        self.parts, self.state, self.last_step = parts, state, last_step
        self._kept_step = state.step
        self._failures = FailureTracker(len(parts.stream))
        self._guard = NonFiniteGuard(key="sft/is_skipped", limit=parts.max_non_finite_steps)

    async def run(self) -> None:
        """Trains.

        Raises:
            DatasetError: not one clip could be used.
            LearnerError: a rank failed.
            NonFiniteError: too many steps in a row had a loss or gradient that is not finite.
            StopRequestedError: the run was asked to stop, and did between two steps.
        """
        while self.state.step < self.last_step:
            self.parts.should_stop()
            await self._step()
            if self.state.step % self.parts.steps_per_checkpoint == 0 and self.state.step < self.last_step:
                await self.save_checkpoint()

    async def save_checkpoint(self) -> None:
        """Takes a checkpoint of the last whole step, unless it has one."""
        if self._kept_step != self.state.step:
            await self.parts.save_checkpoint(self.state)
            self._kept_step = self.state.step

    async def _step(self) -> None:
        parts, step = self.parts, self.state.step + 1
        draws, prompts = await self._collect()
        learned = await parts.train(prompts, [draw.record.response or draw.record.label for draw in draws])
        is_taken = self._guard.is_taken(learned)
        for draw in draws:
            if is_taken:
                parts.ledger.trained(draw, step=step)
            else:
                parts.ledger.filtered(draw, reason=REASON, step=step)
        parts.ledger.stepped(step, outstanding=[], cursor=parts.stream.cursor)
        parts.ledger.commit()
        parts.metrics.write(step, learned)
        parts.display.step(step, f"loss {learned['sft/loss']:.3f}  gradient {learned['sft/grad_norm']:.2f}")
        self.state = replace(self.state, step=step, cursor=parts.stream.cursor, ledger_bytes=parts.ledger.num_bytes)
        # the ledger names the clips
        self._guard.check(step, batch=parts.ledger.path)

    async def _collect(self) -> tuple[list[Draw], list[MediaRef]]:
        """The next clips that can be used, as many as a step takes."""
        parts = self.parts
        draws: list[Draw] = []
        prompts: list[MediaRef] = []
        while len(draws) < parts.examples_per_step:
            asked = [parts.stream.next() for _ in range(parts.examples_per_step - len(draws))]
            for draw in asked:
                parts.ledger.event(draw, "asked")
            answers = await asyncio.gather(*(parts.prepare(draw.record) for draw in asked))
            for draw, answer in zip(asked, answers, strict=True):
                if isinstance(answer, Failure):
                    self._fail(draw, answer)
                else:
                    self._failures.succeeded()
                    draws.append(draw)
                    prompts.append(answer[0])
        return draws, prompts

    def _fail(self, draw: Draw, failure: Failure) -> None:
        ledger = self.parts.ledger
        logger.warning("draw %s failed: %s: %s", draw.key, failure.reason, failure.detail)
        ledger.failed(draw, failure)
        if self._failures.failed(draw):
            ledger.commit()
            reasons = ", ".join(f"{reason} x{number}" for reason, number in ledger.failures.items())
            raise DatasetError(
                f"some clip of data.cold_start must be usable, got only failures: {reasons}; check "
                f"data.cold_start.media_root and the files; see {ledger.path}"
            )
