"""Makes groups of draws: media, rollout, reward, many at once.

Consumes draws of the stream, as many as `start` allows. Produces scored groups, in a buffer that `batch` empties.
Waits for media tasks, engines and the reward service, each with a deadline of its own. `batch` waits for groups,
and is unblocked by them, by an error of a task, or by `interrupt`.

In lockstep the groups of a batch are made together: all clips first, in the stream's order, then all completions in
one batch of the engines, then all rewards. Otherwise every group goes its own way.

A draw that fails is a reason in the ledger and the next one takes its place; a group that has become too stale goes
back to the stream. What is in flight or buffered is bounded by what `start` was told and `batch` has taken.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common.errors import DatasetError, StopRequestedError
from common.protocols import GenerateFn, GenerateTogetherFn, PrepareFn, ScoreFn
from common.types import Draw, Failure, Generation, Group, Prompt, Sample
from learner.ledger import Ledger
from learner.loops.failure_tracker import FailureTracker
from learner.loops.staleness_buffer import GroupBuffer
from learner.loops.stream import PromptStream, group_seed
from learner.records.event_log import EventLog

logger = logging.getLogger(__name__)
T = TypeVar("T")
REMEDIES = {
    "media": "check data.source.media_root and the files",
    "rollout": "raise rollout.deadline_s or rollout.max_model_len, or lower the clips' limits under data",
    "reward": "check the rewards",
    "stale": "raise learner.max_staleness or learner.max_redraws",
}


@dataclass(kw_only=True)
class GroupProducer:
    """Draws in, groups out."""

    stream: PromptStream
    prepare: PrepareFn
    generate: GenerateFn
    together: GenerateTogetherFn | None = None
    """Makes the groups of a batch in lockstep, where they are to be the same from run to run."""
    score: ScoreFn
    ledger: Ledger
    buffer: GroupBuffer
    events: EventLog
    seed: int
    max_redraws: int
    draw_seconds: dict[str, float] = field(init=False, default_factory=lambda: defaultdict(float))
    """Sums over draws since `batch` last returned, by stage; draws overlap."""
    _tasks: dict[asyncio.Task[None], list[Draw]] = field(init=False, default_factory=dict[Any, Any])
    """Each with the draws that it asks; those that failed stay."""
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _error: BaseException | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._failures = FailureTracker(len(self.stream))

    def start(self, count: int) -> None:
        """Begins the making of so many more groups."""
        if self.together is not None and count:
            asking: list[Draw] = []
            self._begin(self._make_together(count, asking, together=self.together), asking)
            return
        for _ in range(count):
            asking = []
            self._begin(self._make_group(asking), asking)

    def _begin(self, work: Coroutine[Any, Any, None], asking: list[Draw]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = asking
        task.add_done_callback(self._ended)

    async def batch(self, count: int, *, learner_version: int) -> list[Group]:
        """The next groups to train, none of them too stale.

        Raises:
            DatasetError: as many draws in a row failed as show that none will succeed.
            EngineError: an engine died.
            RewardError: the reward service died.
            StopRequestedError: the run is to stop.
        """
        while True:
            self._send_back(self.buffer.drop_stale(learner_version=learner_version))
            if self._error is not None:
                raise self._error
            if len(self.buffer) >= count:
                return self.buffer.take(count)
            self._changed.clear()
            await self._changed.wait()

    def interrupt(self) -> None:
        """Makes `batch` raise, now or when it is next called."""
        self._error = self._error or StopRequestedError("the run was asked to stop")
        self._changed.set()

    def outstanding(self) -> list[Draw]:
        """Draws without a fate that the stream's cursor does not stand for: in flight, buffered or handed back."""
        in_flight = [draw for asking in self._tasks.values() for draw in asking]
        return in_flight + self.buffer.draws() + self.stream.handed_back

    async def stop(self) -> None:
        """Cancels what is in flight."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_group(self, asking: list[Draw]) -> None:
        while True:
            asking[:] = [self.stream.next()]
            answer = await self._ask(asking[0])
            if self._settle(asking[0], answer, asking):
                return

    async def _ask(self, draw: Draw) -> Group | Failure:
        """One draw's way: media, rollout, reward."""
        prompt = await self._prepared(draw)
        if isinstance(prompt, Failure):
            return prompt
        generation = await self._timed("generate", self.generate(prompt))
        return await self._scored(prompt, generation)

    async def _make_together(self, count: int, asking: list[Draw], *, together: GenerateTogetherFn) -> None:
        missing = count
        while missing:
            prompts = await self._prepared_in_order(missing, asking)
            with self.events.phase("generate"):
                generations = await self._timed("generate", together(prompts))
            with self.events.phase("reward"):
                answers = await asyncio.gather(
                    *(self._scored(p, g) for p, g in zip(prompts, generations, strict=True))
                )
            for prompt, answer in zip(prompts, answers, strict=True):
                missing -= self._settle(prompt.draw, answer, asking)

    async def _prepared_in_order(self, count: int, asking: list[Draw]) -> list[Prompt]:
        """The next prompts whose clips can be used."""
        ready: list[Prompt] = []
        while len(ready) < count:
            draws = [self.stream.next() for _ in range(count - len(ready))]
            asking += draws
            for draw, prompt in zip(draws, await asyncio.gather(*map(self._prepared, draws)), strict=True):
                if isinstance(prompt, Failure):
                    self._settle(draw, prompt, asking)
                else:
                    ready.append(prompt)
        return ready

    async def _prepared(self, draw: Draw) -> Prompt | Failure:
        self.ledger.event(draw, "asked")
        prepared = await self._timed("media", self.prepare(draw.record))
        if isinstance(prepared, Failure):
            return prepared
        media, num_tokens = prepared
        return Prompt(draw=draw, media=media, num_prompt_tokens=num_tokens, seed=group_seed(self.seed, draw))

    async def _scored(self, prompt: Prompt, generation: Generation | Failure) -> Group | Failure:
        if isinstance(generation, Failure):
            return generation
        draw = prompt.draw
        self.ledger.event(draw, "generated", engine=generation.engine, version=generation.min_policy_version)
        scores = await self._timed("reward", self.score(draw.record, generation.completions))
        if isinstance(scores, Failure):
            return scores
        self.ledger.event(draw, "scored", mean=sum(s.total for s in scores) / len(scores))
        return Group(
            prompt=prompt,
            samples=tuple(
                Sample(completion=c, score=s) for c, s in zip(generation.completions, scores, strict=True)
            ),
            min_policy_version=generation.min_policy_version,
            engine=generation.engine,
        )

    def _settle(self, draw: Draw, answer: Group | Failure, asking: list[Draw]) -> bool:
        """Buffers a group, or records a failure; whether it was a group."""
        # from here on it is the buffer's, or has its fate
        asking.remove(draw)
        if isinstance(answer, Group):
            self.buffer.put(answer)
            self._failures.succeeded()
            # another batch may be waiting for this one
            self._changed.set()
        else:
            self._fail(draw, answer)
        return isinstance(answer, Group)

    def _send_back(self, stale: list[Group]) -> None:
        for group in stale:
            draw = group.prompt.draw
            self.ledger.event(draw, "stale", version=group.min_policy_version)
            if draw.draw < self.max_redraws:
                self.stream.redraw(draw)
                self.ledger.redrawn(draw)
            else:
                self._fail(
                    draw, Failure(stage="stale", reason="stale", detail=f"{draw.draw + 1} draws came too late")
                )
        self.start(len(stale))

    def _fail(self, draw: Draw, failure: Failure) -> None:
        logger.warning("draw %s failed: %s: %s", draw.key, failure.reason, failure.detail)
        self.ledger.failed(draw, failure)
        if self._failures.failed(draw):
            self.ledger.commit()
            raise DatasetError(_only_failures(self.ledger))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            del self._tasks[task]
        else:
            # its draws stay outstanding: the step that trains meanwhile may be kept, and resumed from
            self._error = self._error or task.exception()
        self._changed.set()

    async def _timed(self, stage: str, work: Awaitable[T]) -> T:
        start = time.perf_counter()
        try:
            return await work
        finally:
            self.draw_seconds[stage] += time.perf_counter() - start


def _only_failures(ledger: Ledger) -> str:
    reasons = ", ".join(f"{reason} x{count}" for reason, count in ledger.failures.items())
    stage = ledger.failures.most_common(1)[0][0].split("/")[0]
    return f"some draw must come to a group, got only failures: {reasons}; {REMEDIES[stage]}; see {ledger.path}"
