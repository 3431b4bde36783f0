"""The rollout pool: draws as requests to a fleet's engines, without Ray."""

import asyncio
from collections.abc import Sequence

from common.errors import EngineError
from common.protocols import WeightReceiver
from common.types import Failure, Generation, MediaRef, Prompt, SamplingSpec
from rollout.fleet.dispatcher import ALONE_AFTER, KILLS_ENGINES, Dispatcher


class RolloutPool:
    """A `GenerateFn` over the engines of a fleet."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        slots: Sequence[str],
        sampling: SamplingSpec,
        group_size: int,
        deadline_s: float,
    ) -> None:
        """`slots` are the fleet's, in order; `together` divides a batch among them."""
        self._dispatcher, self._slots = dispatcher, tuple(slots)
        self._sampling, self._group_size, self._deadline_s = sampling, group_size, deadline_s

    async def __call__(self, prompt: Prompt) -> Generation | Failure:
        async def call(engine: WeightReceiver) -> Generation | Failure:
            return await engine.generate(
                prompt.media,
                sampling=self._sampling,
                group_size=self._group_size,
                seed=prompt.seed,
                deadline_s=self._deadline_s,
            )

        generation = await self._dispatcher.run(
            call, num_sequences=self._group_size, label=prompt.draw.key, clip=prompt.draw.record.prompt_id
        )
        return self._checked(generation)

    async def score(
        self,
        media: MediaRef,
        *,
        prefix_ids: Sequence[int],
        text_ids: Sequence[int],
        is_alone: bool,
        label: str = "",
    ) -> float | Failure:
        """The log-probability of tokens after a prompt, in nats; a failure as for a group."""

        async def call(engine: WeightReceiver) -> float | Failure:
            return await engine.score(
                media,
                prefix_ids=prefix_ids,
                text_ids=text_ids,
                deadline_s=self._deadline_s,
                is_alone=is_alone,
            )

        return await self._dispatcher.run(call, num_sequences=1, label=label)

    async def together(self, prompts: Sequence[Prompt]) -> list[Generation | Failure]:
        """A `GenerateTogetherFn`: group i goes to slot i modulo their number; each engine runs in lockstep."""
        count = len(self._slots)
        shares = [prompts[index::count] for index in range(count)]
        answers = await asyncio.gather(*map(self._share, self._slots, shares))
        return [answers[i % count][i // count] for i in range(len(prompts))]

    async def _share(self, slot: str, prompts: Sequence[Prompt]) -> list[Generation | Failure]:
        """The groups of one slot, made again as a whole when its engine is lost.

        The last bits of a group depend on the batch that it is made in. After two losses each prompt is therefore
        only tried alone, its answer is dropped, and the batch is repeated without those that kill an engine.
        """
        killers: dict[int, Failure] = {}
        while len(killers) < len(prompts):
            remaining = [i for i in range(len(prompts)) if i not in killers]
            answers = await self._in_lockstep(slot, [prompts[i] for i in remaining], max_losses=ALONE_AFTER)
            if not isinstance(answers, Failure):
                made = dict(zip(remaining, map(self._checked, answers), strict=True)) | killers
                return [made[i] for i in range(len(prompts))]
            if answers.reason != KILLS_ENGINES:
                raise EngineError(f"{slot}: a batch in lockstep failed: {answers.detail}")
            for i in remaining:
                answer = await self._in_lockstep(slot, [prompts[i]], num_losses=ALONE_AFTER)
                if isinstance(answer, Failure) and answer.reason == KILLS_ENGINES:
                    killers[i] = answer
        return [killers[i] for i in range(len(prompts))]

    async def _in_lockstep(
        self, slot: str, prompts: Sequence[Prompt], *, num_losses: int = 0, max_losses: int = ALONE_AFTER + 1
    ) -> list[Generation | Failure] | Failure:
        async def call(engine: WeightReceiver) -> list[Generation | Failure]:
            return await engine.generate_together(
                [prompt.media for prompt in prompts],
                sampling=self._sampling,
                group_size=self._group_size,
                seeds=[prompt.seed for prompt in prompts],
                deadline_s=self._deadline_s,
            )

        return await self._dispatcher.run(
            call,
            num_sequences=self._group_size * len(prompts),
            label=", ".join(prompt.draw.key for prompt in prompts),
            slot=slot,
            num_losses=num_losses,
            max_losses=max_losses,
        )

    def _checked(self, generation: Generation | Failure) -> Generation | Failure:
        if isinstance(generation, Generation) and len(generation.completions) != self._group_size:
            raise EngineError(
                f"engine {generation.engine} must return {self._group_size} completions, got "
                f"{len(generation.completions)}"
            )
        return generation
