"""The GRPO loop: take groups, train on them, publish, record, save a checkpoint.

`GrpoLoop.run` consumes groups of the producer and produces policy versions. It waits for groups, the ranks, the
publisher and checkpoints, in that order; each unblocks it within its own deadline. It holds the ranks' turn from a
step's training to the end of its publish, and while a checkpoint is copied. While it waits for groups, the turn is
free, and engines that were started anew are admitted.

With `max_staleness` S, the producer begins (S + 1) batches at the start and one more after each publish. At most
(S + 1) batches are therefore in flight, buffered or being trained; with S = 0 nothing is in flight during training.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Protocol

from common.protocols import EngineFleet, TrainFn
from common.runtime.metrics import distribution
from common.types import Group, Record, StepReport
from learner.checkpoints.checkpoint import RunState
from learner.ledger import Ledger
from learner.loops.admission import EngineAdmission
from learner.loops.equal_rewards import EqualRewards
from learner.loops.non_finite import NonFiniteGuard
from learner.loops.producer import GroupProducer
from learner.loops.rank_turn import RankTurn
from learner.publishing.publisher import Publisher, PublishReport
from learner.records.event_log import EventLog


class StepRecorder(Protocol):
    """Records a step and returns the file of its samples; `published` is None for a step that was left out."""

    async def __call__(
        self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport | None
    ) -> Path: ...


class SaveCheckpointFn(Protocol):
    """Takes a checkpoint of the ranks, which are at the state; writing may continue after it returns."""

    async def __call__(self, state: RunState) -> None: ...


class EvaluateFn(Protocol):
    """Evaluates the current policy when an evaluation is due; nothing is published meanwhile."""

    def __call__(self, state: RunState) -> Coroutine[Any, Any, None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopParts:
    producer: GroupProducer
    train: TrainFn
    publisher: Publisher
    fleet: EngineFleet
    ledger: Ledger
    record: StepRecorder
    save_checkpoint: SaveCheckpointFn
    evaluate: EvaluateFn
    """Called after every checkpoint."""
    prefetch: Callable[[Sequence[Record]], None]
    """Begins the processing of the next clips."""
    events: EventLog
    reward_metrics: Callable[[], dict[str, float]] = dict[str, float]
    """Each reward's metrics since the last call."""
    groups_per_step: int
    steps_per_checkpoint: int
    max_non_finite_steps: int


class GrpoLoop:
    """Trains from a state to a last step. After each step ranks, engines, ledger and records agree on `state`."""

    def __init__(self, *, parts: LoopParts, state: RunState, last_step: int) -> None:
        self.parts, self.state, self.last_step = parts, state, last_step
        self._kept_step = state.step
        self._turn = RankTurn()
        self._admission = EngineAdmission(
            fleet=parts.fleet,
            publisher=parts.publisher,
            turn=self._turn,
            events=parts.events,
            fail=parts.producer.fail,
        )
        self._equal = EqualRewards()
        self._guard = NonFiniteGuard(key="learner/is_skipped", limit=parts.max_non_finite_steps)

    async def run(self) -> None:
        """Trains; errors of the producer, the ranks, the publisher, the fleet and the checkpoints end it.

        Raises:
            NonFiniteError: too many steps in a row were left out.
        """
        async with self._admission.running():
            await self._run_steps()

    async def _run_steps(self) -> None:
        parts, remaining = self.parts, self.last_step - self.state.step
        num_batches = min(parts.producer.buffer.max_staleness + 1, remaining)
        parts.producer.start(num_batches * parts.groups_per_step)
        try:
            for done in range(1, remaining + 1):
                await self._step()
                num_next = parts.groups_per_step if done + num_batches <= remaining else 0
                # a batch in lockstep shares the engines with no evaluation: its bits depend on what runs beside it
                is_alone = parts.producer.together is not None
                if not is_alone:
                    parts.producer.start(num_next)
                if self.state.step % parts.steps_per_checkpoint == 0 or done == remaining:
                    await self.save_checkpoint()
                    # an engine that it waits for may need an admission
                    await self._admission.unless_failed(parts.evaluate(self.state))
                if is_alone:
                    parts.producer.start(num_next)
        finally:
            await parts.producer.stop()
            # the fates of a failed step's draws are needed to find its cause
            parts.ledger.commit()

    async def _step(self) -> None:
        parts, events, step = self.parts, self.parts.events, self.state.step + 1
        events.begin_step(step)
        learner_version = parts.publisher.version
        with events.phase("rollout"):
            groups = await parts.producer.batch(parts.groups_per_step, learner_version=learner_version)
        parts.prefetch(parts.producer.stream.peek(parts.groups_per_step))
        learned, published = await self._train_and_publish(groups)
        self._guard.settle((group.prompt.draw for group in groups), parts.ledger, step=step)
        draw_seconds = {f"draw_seconds/{k}": v for k, v in parts.producer.draw_seconds.items()}
        parts.producer.draw_seconds.clear()
        report = StepReport(
            metrics=learned
            | group_metrics(groups, learner_version=learner_version)
            | parts.reward_metrics()
            | draw_seconds,
            seconds=dict(events.seconds),
        )
        batch = await self._close_step(step, groups, report, published)
        self._equal.note(step, report.metrics, batch=batch)
        self._guard.check(step, batch=batch)

    async def _train_and_publish(self, groups: Sequence[Group]) -> tuple[dict[str, float], PublishReport | None]:
        parts, events = self.parts, self.parts.events
        # the ranks hold the next version before any engine does
        async with self._turn.changing():
            with events.phase("learn"):
                learned = await parts.train(groups)
            if not self._guard.is_taken(learned):
                return learned, None
            with events.phase("publish"):
                return learned, await parts.publisher.publish()

    async def _close_step(
        self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport | None
    ) -> Path:
        # ledger, then records, then the state: earlier steps are whole whenever the run ends
        parts = self.parts
        outstanding, cursor = parts.producer.outstanding(), parts.producer.stream.cursor
        parts.ledger.stepped(step, outstanding=outstanding, cursor=cursor)
        parts.ledger.commit()
        # as of now: draws go on while the step is recorded
        state = replace(
            self.state,
            step=step,
            policy_version=parts.publisher.version,
            cursor=cursor,
            outstanding=tuple((draw.position, draw.draw) for draw in outstanding),
            ledger_bytes=parts.ledger.num_bytes,
        )
        batch = await parts.record(step, groups, report, published)
        self.state = state
        return batch

    async def save_checkpoint(self) -> None:
        """Takes a checkpoint of the last whole step, unless there is one; no step may be under way."""
        if self._kept_step != self.state.step:
            async with self._turn.reading():
                with self.parts.events.phase("checkpoint"):
                    await self.parts.save_checkpoint(self.state)
            self._kept_step = self.state.step


def group_metrics(groups: Sequence[Group], *, learner_version: int) -> dict[str, float]:
    """Rewards, lengths and staleness of a batch."""
    samples = [s for g in groups for s in g.samples]
    names = dict.fromkeys(name for s in samples for name in s.score.breakdown)
    equal = sum(len({s.score.total for s in g.samples}) == 1 for g in groups)
    truncated = sum(s.completion.finish_reason == "length" for s in samples)
    metrics = distribution("reward/total", [s.score.total for s in samples])
    for name in names:
        # a group has no value of a reward that was left out of it
        values = [s.score.breakdown[name] for s in samples if name in s.score.breakdown]
        metrics[f"reward/{name}/mean"] = fmean(values)
        metrics[f"reward/{name}/std"] = pstdev(values)
    metrics |= distribution("rollout/length", [float(len(s.completion.token_ids)) for s in samples])
    metrics |= distribution("rollout/staleness", [float(learner_version - g.min_policy_version) for g in groups])
    metrics["rollout/truncated_fraction"] = truncated / len(samples)
    metrics["reward/equal_groups_fraction"] = equal / len(groups)
    return metrics
