"""What is kept when a run is stopped: a step that is whole, or nothing."""

import asyncio
from pathlib import Path

import pytest

from common.errors import PublishError, StopRequestedError
from deploy.interrupt import Interrupts
from learner.checkpoints.checkpoint import START
from tests.support.clock import run
from tests.support.loop_bench import Bench, Plan


def asked(interrupts: Interrupts) -> None:
    """The signal's handler, called as the signal calls it."""
    task = asyncio.current_task()
    assert task is not None
    interrupts._request(task)


def work(bench: Bench, interrupts: Interrupts, last_step: int) -> None:
    """The loop as the stage runs it."""
    bench.loop.last_step = last_step

    async def within() -> None:
        await interrupts.run_until_stopped(
            bench.loop.run, save_checkpoint=bench.loop.save_checkpoint, listener=bench.producer.interrupt
        )

    run(within())


def test_a_run_that_is_asked_to_stop_keeps_its_last_whole_step(tmp_path: Path) -> None:
    bench, interrupts = Bench(tmp_path), Interrupts(lambda _: None)
    bench.on_train = lambda step: asked(interrupts) if step == 2 else None
    with pytest.raises(StopRequestedError):
        work(bench, interrupts, 9)
    assert [state.step for state in bench.seen.kept] == [2]
    assert bench.seen.log == ["train", "publish", "record"] * 2


def test_a_failure_after_the_request_keeps_nothing_as_a_step_is_half_taken(tmp_path: Path) -> None:
    bench, interrupts = Bench(tmp_path), Interrupts(lambda _: None)
    bench.publish_error_at = 2
    bench.on_train = lambda step: asked(interrupts) if step == 2 else None
    with pytest.raises(PublishError):
        work(bench, interrupts, 9)
    assert bench.seen.kept == []


def test_a_second_request_ends_at_once_and_keeps_nothing(tmp_path: Path) -> None:
    bench, interrupts = Bench(tmp_path), Interrupts(lambda _: None)
    bench.loop.last_step = 9

    async def within() -> None:
        main = asyncio.current_task()
        assert main is not None
        bench.on_train = lambda step: (interrupts._request(main), interrupts._request(main)) if step == 2 else None
        await interrupts.run_until_stopped(
            bench.loop.run, save_checkpoint=bench.loop.save_checkpoint, listener=bench.producer.interrupt
        )

    with pytest.raises(asyncio.CancelledError):
        run(within())
    assert bench.seen.kept == []
    assert bench.seen.log == ["train", "publish", "record", "train"]


def test_a_run_stopped_before_its_first_step_does_not_write_its_checkpoint_again(tmp_path: Path) -> None:
    bench, interrupts = Bench(tmp_path), Interrupts(lambda _: None)
    with interrupts.cleanly(lambda: None):
        run(_asked_first(interrupts))
    with pytest.raises(StopRequestedError):
        work(bench, interrupts, 9)
    assert bench.seen.kept == []
    assert bench.loop.state == START


async def _asked_first(interrupts: Interrupts) -> None:
    asked(interrupts)


def test_a_stop_does_not_hide_the_error_that_came_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(groups_per_step=1))
    bench.producer._error = RuntimeError("first")
    bench.producer.interrupt()
    with pytest.raises(RuntimeError, match="first"):
        bench.run(1)
