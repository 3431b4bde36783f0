"""The supervised stage: the policy learns to answer as the corpus does.

`SftLoop` consumes clips with responses and produces optimizer steps. It waits for media tasks, the ranks and
checkpoints; each unblocks it within its own deadline. The next clip replaces one that cannot be used.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from common.protocols import PrepareFn
from common.types import Failure, Prompt
from learner.checkpoints.checkpoint import RunState
from learner.ledger import Ledger
from learner.loops.failure_tracker import FailureTracker
from learner.loops.grpo_loop import SaveCheckpointFn
from learner.loops.non_finite import NonFiniteGuard
from learner.loops.stream import PromptStream
from learner.records.record import Curves, StepDisplay


@dataclass(frozen=True, kw_only=True, slots=True)
class SftParts:
    stream: PromptStream
    """Clips with a response."""
    prepare: PrepareFn
    train: Callable[[Sequence[Prompt], Sequence[str]], Awaitable[dict[str, float]]]
    """One supervised step over all ranks, which returns its metrics, `sft/...`."""
    ledger: Ledger
    metrics: Curves
    display: StepDisplay
    save_checkpoint: SaveCheckpointFn
    should_stop: Callable[[], None]
    """Raises `StopRequestedError` if a stop was requested."""
    examples_per_step: int
    steps_per_checkpoint: int
    max_non_finite_steps: int


class SftLoop:
    """Trains from a state to a last step; `state` is that after the last whole step."""

    def __init__(self, *, parts: SftParts, state: RunState, last_step: int) -> None:
        self.parts, self.state, self.last_step = parts, state, last_step
        self._kept_step = state.step
        self._failures = FailureTracker(
            parts.ledger,
            num_prompts=len(parts.stream),
            rule="some clip of data.cold_start must be usable",
            remedies={"media": "check data.cold_start.media_root and the files"},
        )
        self._guard = NonFiniteGuard(key="sft/is_skipped", limit=parts.max_non_finite_steps)

    async def run(self) -> None:
        """Trains; errors of the ranks and the checkpoints end it.

        Raises:
            DatasetError: no clip could be used.
            NonFiniteError: too many steps in a row were left out.
        """
        while self.state.step < self.last_step:
            self.parts.should_stop()
            await self._step()
            if self.state.step % self.parts.steps_per_checkpoint == 0 and self.state.step < self.last_step:
                await self.save_checkpoint()

    async def save_checkpoint(self) -> None:
        """Takes a checkpoint of the last whole step, unless there is one."""
        if self._kept_step != self.state.step:
            await self.parts.save_checkpoint(self.state)
            self._kept_step = self.state.step

    async def _step(self) -> None:
        parts, step = self.parts, self.state.step + 1
        prompts = await self._collect()
        draws = [prompt.draw for prompt in prompts]
        learned = await parts.train(prompts, [draw.record.response or draw.record.label for draw in draws])
        self._guard.is_taken(learned)
        self._guard.settle(draws, parts.ledger, step=step)
        parts.ledger.stepped(step, outstanding=[], cursor=parts.stream.cursor)
        parts.ledger.commit()
        parts.metrics.write(step, learned)
        parts.display.step(step, f"loss {learned['sft/loss']:.3f}  gradient {learned['sft/grad_norm']:.2f}")
        self.state = replace(self.state, step=step, cursor=parts.stream.cursor, ledger_bytes=parts.ledger.num_bytes)
        # samples are not recorded here: the ledger names the clips
        self._guard.check(step, batch=parts.ledger.path)

    async def _collect(self) -> list[Prompt]:
        parts = self.parts
        prompts: list[Prompt] = []
        while len(prompts) < parts.examples_per_step:
            candidates = [parts.stream.next() for _ in range(parts.examples_per_step - len(prompts))]
            for draw in candidates:
                parts.ledger.event(draw, "asked")
            clips = await asyncio.gather(*(parts.prepare(draw.record) for draw in candidates))
            for draw, clip in zip(candidates, clips, strict=True):
                if isinstance(clip, Failure):
                    self._failures.failed(draw, clip)
                else:
                    self._failures.succeeded()
                    # nothing is sampled: the seed has no meaning
                    prompts.append(Prompt(draw=draw, media=clip[0], num_prompt_tokens=clip[1], seed=0))
        return prompts
