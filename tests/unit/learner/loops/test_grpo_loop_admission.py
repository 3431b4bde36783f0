"""Engines join while the loop runs: whenever the ranks are free, and never while they are not."""

import asyncio
from pathlib import Path

import pytest

from common.errors import FleetError, LearnerError, PublishError, StopRequestedError
from common.types import Failure, Generation, Prompt
from tests.support.clock import run
from tests.support.loop_bench import Bench, Plan

ENDS = {"train": "trained", "publish": "published", "save": "saved", "admit": "admitted"}
ERRORS = [
    LearnerError("a rank died"),
    FleetError("too few"),
    PublishError("no", proof="score", engine="ranks", subject="t"),
]


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize("not_finite", [set[int](), {2}])
def test_nothing_is_admitted_while_the_loop_uses_the_ranks(
    tmp_path: Path, max_staleness: int, not_finite: set[int]
) -> None:
    bench = Bench(tmp_path, Plan(num_records=20, max_staleness=max_staleness, steps_per_checkpoint=1))
    bench.not_finite = not_finite
    # an engine joins in the middle of each step
    bench.on_train = lambda step: bench.joining.set()
    bench.run(6)
    uses = bench.seen.uses
    begun, ended = uses[::2], uses[1::2]
    assert ended == [ENDS[use] for use in begun]
    for i in range(len(begun)):
        # a step that was left out has no publish
        assert begun[i] != "publish" or begun[i - 1] == "train"
    assert begun.count("train") == begun.count("publish") + len(not_finite) == 6
    assert begun.count("admit") == 6
    assert bench.faults() == ()


def test_a_single_engine_that_died_returns_while_the_loop_waits_for_its_groups(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    generate, admitted = bench.producer.generate, asyncio.Event()

    async def admit() -> None:
        bench.joining.clear()
        admitted.set()

    bench.admit = admit

    async def generate_once_admitted(prompt: Prompt) -> Generation | Failure:
        if bench.version == 1:
            bench.joining.set()
            async with asyncio.timeout(600):
                await admitted.wait()
        return await generate(prompt)

    bench.producer.generate = generate_once_admitted
    bench.run(3)
    assert [step for step, _, _ in bench.seen.recorded] == [1, 2, 3]
    assert bench.faults() == ()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["admit", "fleet"])
def test_an_error_of_the_admission_ends_the_run(tmp_path: Path, error: Exception, where: str) -> None:
    bench = Bench(tmp_path)
    if where == "admit":
        bench.admit_error = error
    else:
        bench.fleet_error = error

    async def never(prompt: Prompt) -> Generation | Failure:
        bench.joining.set()
        return await asyncio.Event().wait()  # pyright: ignore[reportReturnType]

    bench.producer.generate = never
    with pytest.raises(type(error)) as caught:
        bench.run(3)
    assert caught.value is error


def test_no_admission_follows_a_publish_that_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish_error_at = 2
    bench.on_train = lambda step: bench.joining.set() if step == 2 else None
    with pytest.raises(PublishError):
        bench.run(3)
    assert "admit" not in bench.seen.uses


def test_the_admission_ends_with_the_loop(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def whole() -> int:
        bench.loop.last_step = 2
        await bench.loop.run()
        return len(asyncio.all_tasks())

    assert run(whole()) == 1


def test_a_stop_in_the_middle_of_an_admission_still_saves_a_checkpoint(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    admitting = asyncio.Event()

    async def admit() -> None:
        admitting.set()
        bench.producer.interrupt()
        await asyncio.Event().wait()

    async def never(prompt: Prompt) -> Generation | Failure:
        if bench.version == 0:
            return await generate(prompt)
        bench.joining.set()
        return await asyncio.Event().wait()  # pyright: ignore[reportReturnType]

    generate, bench.producer.generate = bench.producer.generate, never
    bench.admit = admit

    async def whole() -> None:
        bench.loop.last_step = 3
        with pytest.raises(StopRequestedError):
            await bench.loop.run()
        await bench.loop.save_checkpoint()

    run(whole())
    assert admitting.is_set()
    assert [state.step for state in bench.seen.kept] == [1]
