"""The rollout pool, which distributes prompts over the engines, without Ray."""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from common.errors import EngineError
from common.protocols import WeightReceiver
from common.types import Failure, Generation, MediaRef, Prompt, SamplingSpec


class RolloutPool:
    """A `GenerateFn` that sends each prompt to the engine with the least in flight."""

    def __init__(
        self,
        engines: Sequence[WeightReceiver],
        *,
        sampling: SamplingSpec,
        group_size: int,
        deadline_s: float,
    ) -> None:
        self._engines = list(engines)
        self._in_flight = [0] * len(engines)
        self._last = -1
        self._sampling, self._group_size, self._deadline_s = sampling, group_size, deadline_s

    async def __call__(self, prompt: Prompt) -> Generation | Failure:
        with self._least_busy() as engine:
            generation = await engine.generate(
                prompt.media,
                sampling=self._sampling,
                group_size=self._group_size,
                seed=prompt.seed,
                deadline_s=self._deadline_s,
            )
        return self._checked(generation, engine.name)

    async def score(
        self, media: MediaRef, *, prefix_ids: Sequence[int], text_ids: Sequence[int], is_alone: bool
    ) -> float | Failure:
        """The log-probability of tokens after a prompt, in nats; a failure as for a group."""
        with self._least_busy() as engine:
            return await engine.score(
                media,
                prefix_ids=prefix_ids,
                text_ids=text_ids,
                deadline_s=self._deadline_s,
                is_alone=is_alone,
            )

    @contextmanager
    def _least_busy(self) -> Generator[WeightReceiver]:
        # ties go round: an engine that fails fast would otherwise get every request
        count = len(self._engines)
        order = [(self._last + 1 + offset) % count for offset in range(count)]
        index = self._last = min(order, key=self._in_flight.__getitem__)
        self._in_flight[index] += 1
        try:
            yield self._engines[index]
        finally:
            self._in_flight[index] -= 1

    async def together(self, prompts: Sequence[Prompt]) -> list[Generation | Failure]:
        """A `GenerateTogetherFn`: group i goes to engine i modulo their number; each engine runs in lockstep."""
        count = len(self._engines)
        shares = [prompts[index::count] for index in range(count)]
        answers = await asyncio.gather(
            *(
                engine.generate_together(
                    [prompt.media for prompt in share],
                    sampling=self._sampling,
                    group_size=self._group_size,
                    seeds=[prompt.seed for prompt in share],
                    deadline_s=self._deadline_s,
                )
                for engine, share in zip(self._engines, shares, strict=True)
                if share
            )
        )
        return [
            self._checked(answers[i % count][i // count], self._engines[i % count].name)
            for i in range(len(prompts))
        ]

    def _checked(self, generation: Generation | Failure, engine: str) -> Generation | Failure:
        if isinstance(generation, Generation) and len(generation.completions) != self._group_size:
            raise EngineError(
                f"engine {engine} must return {self._group_size} completions, got {len(generation.completions)}"
            )
        return generation
