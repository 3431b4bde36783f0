"""Calls of a real engine: control calls among many requests, cancelled callers, and a core that hangs."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest
import ray

from common.errors import EngineError
from common.types import Generation
from rollout.actor import EngineClient
from tests.integration.conftest import Run
from tests.support.engines import SAMPLING, start_engine
from tests.support.media.clips import case_named, processed

pytestmark = pytest.mark.usefixtures("local_ray")
LONG = replace(SAMPLING, max_tokens=400)
MAX_CONCURRENCY = 4


@pytest.fixture(scope="module")
def engine(local_ray: None, run: Run, untied: str) -> Iterator[EngineClient]:
    """An engine that runs few requests at a time, so that a few more fill it."""
    client = start_engine(untied, name="busy", max_concurrency=MAX_CONCURRENCY, answer_deadline_s=5.0)
    run(client.warm_up([processed(case_named("av-12fps"), untied)]))
    yield client
    ray.kill(client.handle)


def requests(engine: EngineClient, untied: str, *, count: int) -> list[asyncio.Task[Any]]:
    prompt = processed(case_named("text-only"), untied)
    return [
        asyncio.create_task(engine.generate(prompt, sampling=LONG, group_size=1, seed=seed, deadline_s=600.0))
        for seed in range(count)
    ]


async def unfinished(engine: EngineClient) -> int:
    """Requests that vLLM has not answered."""
    return await engine.handle.num_unfinished.remote()


def test_control_calls_do_not_wait_for_requests(run: Run, engine: EngineClient, untied: str) -> None:
    async def work() -> None:
        running = requests(engine, untied, count=16 * MAX_CONCURRENCY)
        while not await unfinished(engine):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        await engine.pause()
        # behind the requests, the pause would have come after nearly all of them
        num_done = sum(request.done() for request in running)
        assert num_done < len(running) / 2
        assert await engine.sources()
        assert sum(request.done() for request in running) == num_done
        await engine.resume()
        assert all(isinstance(answer, Generation) for answer in await asyncio.gather(*running))

    run(work())


def test_a_cancelled_caller_aborts_its_request_in_the_engine(run: Run, engine: EngineClient, untied: str) -> None:
    async def work() -> None:
        running = requests(engine, untied, count=2)
        while await unfinished(engine) < 2:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        await engine.pause()
        for request in running:
            request.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        async with asyncio.timeout(20):
            while await unfinished(engine):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        await engine.resume()

    run(work())


def test_a_core_that_hangs_is_an_error_after_the_deadline_and_not_a_hang(run: Run, engine: EngineClient) -> None:
    async def work() -> None:
        children = psutil.Process(await engine.handle.pid.remote()).children(recursive=True)
        cores = [p.pid for p in children if "EngineCore" in " ".join(p.cmdline()) or "EngineCore" in p.name()]
        assert cores
        for pid in cores:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(EngineError, match="pause must end within 5 s, and did not"):
                await engine.pause()
        finally:
            for pid in cores:
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="busy"):
            await engine.resume()

    run(work())
