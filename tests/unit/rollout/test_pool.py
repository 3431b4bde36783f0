"""The rollout pool: every prompt to the engine with the least to do."""

import asyncio
from typing import Any

import pytest

from common.errors import EngineError
from common.types import Failure, Generation, MediaRef, Prompt, SamplingSpec
from rollout.pool import RolloutPool
from tests.support.builders import make_draw, make_generation
from tests.support.clock import run
from tests.support.fleet import dispatcher_of

SAMPLING = SamplingSpec(max_tokens=5)
FAILURE = Failure(stage="rollout", reason="deadline", detail="1 s passed")


class Engine:
    """Answers when told."""

    def __init__(self, name: str, answer: Generation | Failure | Exception | None = None) -> None:
        self.name = name
        self.answer = answer or make_generation(2, engine=name)
        self.asked: list[dict[str, Any]] = []
        self.open = asyncio.Event()

    async def generate(self, media: Any, **request: Any) -> Generation | Failure:
        """Keeps the request; waits."""
        self.asked.append({"media": media, **request})
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def pool_of(*engines: Engine) -> RolloutPool:
    """Groups of two."""
    return RolloutPool(
        dispatcher_of(engines),
        slots=[engine.name for engine in engines],
        sampling=SAMPLING,
        group_size=2,
        deadline_s=7.0,
    )


def prompt_of(name: str, *, seed: int = 0) -> Prompt:
    """Whose media is its name."""
    return Prompt(draw=make_draw(name), media=MediaRef(name), num_prompt_tokens=3, seed=seed)


def test_a_request_carries_all_that_the_engine_needs() -> None:
    async def work() -> None:
        engine = Engine("a")
        engine.open.set()
        assert await pool_of(engine)(prompt_of("clip", seed=11)) == make_generation(2, engine="a")
        assert engine.asked == [
            {"media": "clip", "sampling": SAMPLING, "group_size": 2, "seed": 11, "deadline_s": 7.0}
        ]

    run(work())


def test_the_least_busy_engine_is_asked() -> None:
    async def work() -> None:
        engines = [Engine("a"), Engine("b"), Engine("c")]
        pool = pool_of(*engines)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(pool(prompt_of(f"clip-{i}"))) for i in range(6)]
            await asyncio.sleep(1)
            assert [len(e.asked) for e in engines] == [2, 2, 2]
            engines[1].open.set()
            await asyncio.gather(waiting[1], waiting[4])
            # b has nothing left: the next two are its
            waiting += [group.create_task(pool(prompt_of(f"more-{i}"))) for i in range(2)]
            await asyncio.gather(*waiting[6:])
            assert [len(e.asked) for e in engines] == [2, 4, 2]
            for engine in engines:
                engine.open.set()

    run(work())


def test_a_failed_request_is_data_and_frees_its_engine() -> None:
    async def work() -> None:
        first, second = Engine("a", FAILURE), Engine("b")
        pool = pool_of(first, second)
        first.open.set()
        second.open.set()
        answers = [await pool(prompt_of(clip)) for clip in "xyz"]
        assert [answer == FAILURE for answer in answers] == [True, False, True]
        assert (len(first.asked), len(second.asked)) == (2, 1)

    run(work())


def test_an_engine_that_fails_fast_does_not_get_every_request() -> None:
    async def work() -> None:
        engines = [Engine("a", FAILURE), Engine("b", FAILURE), Engine("c", FAILURE)]
        for engine in engines:
            engine.open.set()
        pool = pool_of(*engines)
        for _ in range(6):
            await pool(prompt_of("x"))
        assert [len(e.asked) for e in engines] == [2, 2, 2]

    run(work())


def test_a_draw_of_a_dead_engine_goes_to_another_with_its_seed() -> None:
    async def work() -> None:
        engine, other = Engine("a", EngineError("gone")), Engine("b")
        engine.open.set()
        other.open.set()
        assert await pool_of(engine, other)(prompt_of("x", seed=7)) == make_generation(2, engine="b")
        assert [request["seed"] for request in (*engine.asked, *other.asked)] == [7, 7]

    run(work())


@pytest.mark.parametrize("num_completions", [1, 3])
def test_a_group_of_another_size_is_no_group(num_completions: int) -> None:
    async def work() -> None:
        engine = Engine("a", make_generation(num_completions, engine="a"))
        engine.open.set()
        with pytest.raises(EngineError, match=f"engine a must return 2 completions, got {num_completions}"):
            await pool_of(engine)(prompt_of("x"))

    run(work())


class TogetherEngine(Engine):
    """Answers batches."""

    async def generate_together(self, media: Any, **request: Any) -> list[Generation | Failure]:
        """One answer per prompt, named after it."""
        self.asked.append({"media": media, **request})
        return [make_generation(2, engine=f"{self.name}/{name}") for name in media]


@pytest.mark.parametrize("num_engines", [1, 2, 3])
def test_in_lockstep_group_i_goes_to_engine_i_modulo_their_number(num_engines: int) -> None:
    async def work() -> None:
        engines = [TogetherEngine(str(i)) for i in range(num_engines)]
        answers = await pool_of(*engines).together([prompt_of(f"clip-{i}", seed=10 + i) for i in range(5)])
        assert [getattr(a, "engine", None) for a in answers] == [f"{i % num_engines}/clip-{i}" for i in range(5)]
        for number, engine in enumerate(engines):
            (request,) = engine.asked
            assert request["seeds"] == [10 + i for i in range(5) if i % num_engines == number]

    run(work())


def test_an_engine_without_a_share_is_not_asked() -> None:
    async def work() -> None:
        engines = [TogetherEngine("a"), TogetherEngine("b")]
        assert len(await pool_of(*engines).together([prompt_of("clip")])) == 1
        assert [len(engine.asked) for engine in engines] == [1, 0]

    run(work())
