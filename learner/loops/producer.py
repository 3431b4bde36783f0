"""Makes groups of draws: media, rollout, reward, many at once.

Consumes draws of the stream, as many as `start` allows. Produces scored groups, in a buffer that `batch` empties.
Waits for media tasks, engines and the reward service, each with its own deadline. `batch` waits for groups; groups,
an error of a task, `fail` or `interrupt` unblock it.

In lockstep the groups of a batch are made together: all clips first, in the stream's order, then all completions in
one batch of the engines, then all rewards. Otherwise every group is made independently.

A clip that is lost before an engine has it is prepared again, and its draw is asked again with the same seed.
A draw that fails is a reason in the ledger, and the next draw replaces it; a group that has become too stale is
handed back to the stream. The groups in flight or buffered are bounded by the calls of `start` and `batch`.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from common.errors import StopRequestedError
from common.prompts.lost_clips import MAX_LOSSES, is_lost, with_clip
from common.protocols import GenerateFn, GenerateTogetherFn, PrepareFn, ScoreFn
from common.types import Draw, Failure, Generation, Group, MediaRef, Prompt, Sample
from learner.ledger import Ledger
from learner.loops.failure_tracker import FailureTracker
from learner.loops.staleness_buffer import GroupBuffer
from learner.loops.stream import PromptStream, group_seed
from learner.records.event_log import EventLog

T = TypeVar("T")
REMEDIES = {
    "media": "check data.source.media_root and the files",
    "rollout": "raise rollout.deadline_s or rollout.max_model_len, or lower the clips' limits under data",
    "reward": "check the rewards",
    "stale": "raise learner.max_staleness or learner.max_redraws",
}


@dataclass(kw_only=True)
class GroupProducer:
    """Takes draws and makes groups."""

    stream: PromptStream
    prepare: PrepareFn
    generate: GenerateFn
    together: GenerateTogetherFn | None = None
    """Makes the groups of a batch in lockstep, for a run that must repeat bit for bit."""
    score: ScoreFn
    ledger: Ledger
    buffer: GroupBuffer
    events: EventLog
    seed: int
    max_redraws: int
    draw_seconds: dict[str, float] = field(init=False, default_factory=lambda: defaultdict(float))
    """Sums over draws, which overlap, by stage; the loop clears them."""
    _tasks: dict[asyncio.Task[None], list[Draw]] = field(init=False, default_factory=dict[Any, Any])
    """Each with its draws in flight; tasks that failed stay."""
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _error: BaseException | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._failures = FailureTracker(
            self.ledger, num_prompts=len(self.stream), rule="some draw must become a group", remedies=REMEDIES
        )

    def start(self, count: int) -> None:
        """Begins to make `count` more groups."""
        if self.together is not None and count:
            in_flight: list[Draw] = []
            self._begin(self._make_together(count, in_flight, together=self.together), in_flight)
            return
        for _ in range(count):
            in_flight = []
            self._begin(self._make_group(in_flight), in_flight)

    def _begin(self, work: Coroutine[Any, Any, None], in_flight: list[Draw]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = in_flight
        task.add_done_callback(self._ended)

    async def batch(self, count: int, *, learner_version: int) -> list[Group]:
        """Returns the next groups to train, none too stale; raises the error of a task, `fail` or `interrupt`."""
        while True:
            self._send_back(self.buffer.drop_stale(learner_version=learner_version))
            if self._error is not None:
                raise self._error
            if len(self.buffer) >= count:
                return self.buffer.take(count)
            self._changed.clear()
            await self._changed.wait()

    def interrupt(self) -> None:
        """Makes `batch` raise, now or at its next call."""
        self.fail(StopRequestedError("the run was asked to stop"))

    def fail(self, error: BaseException) -> None:
        """Makes `batch` raise the error, now or at its next call; the first error counts."""
        self._error = self._error or error
        self._changed.set()

    def outstanding(self) -> list[Draw]:
        """Draws without a fate before the stream's cursor: in flight, buffered or handed back."""
        in_flight = [draw for draws in self._tasks.values() for draw in draws]
        return in_flight + self.buffer.draws() + self.stream.handed_back

    async def stop(self) -> None:
        """Cancels the draws in flight."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_group(self, in_flight: list[Draw]) -> None:
        while True:
            draw = self.stream.next()
            in_flight[:] = [draw]
            self.ledger.event(draw, "asked")
            answer = await with_clip(partial(self._prepare, draw), partial(self._group_of, draw))
            if self._settle(draw, answer, in_flight):
                return

    async def _group_of(self, draw: Draw, media: MediaRef, num_tokens: int) -> Group | Failure:
        prompt = self._prompt(draw, media, num_tokens)
        return await self._scored(prompt, await self._timed("generate", self.generate(prompt)))

    async def _make_together(self, count: int, in_flight: list[Draw], *, together: GenerateTogetherFn) -> None:
        missing = count
        while missing:
            prompts = await self._prepared_in_order(missing, in_flight)
            with self.events.phase("generate"):
                answered = await self._generated_together(prompts, in_flight, together=together)
            with self.events.phase("reward"):
                answers = await asyncio.gather(*(self._scored(p, g) for p, g in answered))
            for (prompt, _), answer in zip(answered, answers, strict=True):
                missing -= self._settle(prompt.draw, answer, in_flight)

    async def _generated_together(
        self, prompts: list[Prompt], in_flight: list[Draw], *, together: GenerateTogetherFn
    ) -> list[tuple[Prompt, Generation | Failure]]:
        """The answers to the prompts that have a clip. Where some were lost, the whole batch is asked again."""
        num_losses = Counter[str]()
        while True:
            answers = await self._timed("generate", together(prompts))
            answered = list(zip(prompts, answers, strict=True))
            if not any(map(is_lost, answers)):
                return answered
            # an engine that lacks a clip has started nothing: the bits of a group depend on its batch
            renewed = await asyncio.gather(*(self._renewed(p, a, num_losses) for p, a in answered))
            for old, new in zip(prompts, renewed, strict=True):
                if isinstance(new, Failure):
                    self._settle(old.draw, new, in_flight)
            prompts = [prompt for prompt in renewed if isinstance(prompt, Prompt)]
            if not prompts:
                return []

    async def _renewed(
        self, prompt: Prompt, answer: Generation | Failure, num_losses: Counter[str]
    ) -> Prompt | Failure:
        if not is_lost(answer):
            return prompt
        num_losses[prompt.draw.key] += 1
        if num_losses[prompt.draw.key] > MAX_LOSSES:
            return answer
        return await self._prepared(prompt.draw, lost=prompt.media)

    async def _prepared_in_order(self, count: int, in_flight: list[Draw]) -> list[Prompt]:
        ready: list[Prompt] = []
        while len(ready) < count:
            draws = [self.stream.next() for _ in range(count - len(ready))]
            in_flight += draws
            for draw in draws:
                self.ledger.event(draw, "asked")
            for draw, prompt in zip(draws, await asyncio.gather(*map(self._prepared, draws)), strict=True):
                if isinstance(prompt, Failure):
                    self._settle(draw, prompt, in_flight)
                else:
                    ready.append(prompt)
        return ready

    async def _prepared(self, draw: Draw, *, lost: MediaRef | None = None) -> Prompt | Failure:
        prepared = await self._prepare(draw, lost=lost)
        return prepared if isinstance(prepared, Failure) else self._prompt(draw, *prepared)

    async def _prepare(self, draw: Draw, *, lost: MediaRef | None) -> tuple[MediaRef, int] | Failure:
        return await self._timed("media", self.prepare(draw.record, lost=lost))

    def _prompt(self, draw: Draw, media: MediaRef, num_tokens: int) -> Prompt:
        return Prompt(draw=draw, media=media, num_prompt_tokens=num_tokens, seed=group_seed(self.seed, draw))

    async def _scored(self, prompt: Prompt, generation: Generation | Failure) -> Group | Failure:
        if isinstance(generation, Failure):
            return generation
        draw = prompt.draw
        self.ledger.event(draw, "generated", engine=generation.engine, version=generation.min_policy_version)
        scores = await self._timed("reward", self.score(draw.record, generation.completions))
        if isinstance(scores, Failure):
            return scores
        return Group(
            prompt=prompt,
            samples=tuple(
                Sample(completion=c, score=s) for c, s in zip(generation.completions, scores, strict=True)
            ),
            min_policy_version=generation.min_policy_version,
            engine=generation.engine,
        )

    def _settle(self, draw: Draw, answer: Group | Failure, in_flight: list[Draw]) -> bool:
        # no longer in flight: the buffer holds it, or it has its fate
        in_flight.remove(draw)
        if isinstance(answer, Group):
            # here and not where it is scored: in lockstep the ledger's order must not depend on the rewards' pace
            totals = [sample.score.total for sample in answer.samples]
            self.ledger.event(draw, "scored", mean=sum(totals) / len(totals))
            self.buffer.put(answer)
            self._failures.succeeded()
            # `batch` may wait for this group
            self._changed.set()
        else:
            self._failures.failed(draw, answer)
        return isinstance(answer, Group)

    def _send_back(self, stale: list[Group]) -> None:
        for group in stale:
            draw = group.prompt.draw
            self.ledger.event(draw, "stale", version=group.min_policy_version)
            if draw.draw < self.max_redraws:
                self.stream.redraw(draw)
                self.ledger.redrawn(draw)
            else:
                detail = f"{draw.draw + 1} draws came too late"
                self._failures.failed(draw, Failure(stage="stale", reason="stale", detail=detail))
        self.start(len(stale))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            del self._tasks[task]
        else:
            # its draws stay outstanding: the step under way may still become a checkpoint, and be resumed from
            self._error = self._error or task.exception()
        self._changed.set()

    async def _timed(self, stage: str, work: Awaitable[T]) -> T:
        start = time.perf_counter()
        try:
            return await work
        finally:
            self.draw_seconds[stage] += time.perf_counter() - start
