"""Calls of a real engine: among many requests, from cancelled callers, and with processes that hang or die."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import ray

from common.errors import EngineError, EngineStartError, RequestRefusedError
from common.types import Generation, ProcessedPrompt
from rollout.actor import CONCURRENCY_GROUPS, EngineActor, EngineClient
from rollout.admission import NUM_PROBE_PLACES
from tests.integration.conftest import Run
from tests.support.engines import ENGINE, ENGINE_ENV, SAMPLING, start_engine
from tests.support.media.clips import case_named, processed

pytestmark = pytest.mark.usefixtures("local_ray")
LONG = replace(SAMPLING, max_tokens=400)
MAX_CONCURRENCY = 16
LIMIT = 4
"""Sequences that the engine admits."""


@pytest.fixture(scope="module")
def engine(local_ray: None, run: Run, untied: str) -> Iterator[EngineClient]:
    """An engine that takes few requests at a time and runs fewer, so that a few more fill it."""
    config = ENGINE.model_copy(update={"max_num_seqs": LIMIT + NUM_PROBE_PLACES})
    client = start_engine(
        untied, name="busy", config=config, max_concurrency=MAX_CONCURRENCY, answer_deadline_s=5.0
    )
    run(client.warm_up([processed(case_named("av-12fps"), untied)]))
    yield client
    ray.kill(client.handle)


def requests(engine: EngineClient, untied: str, *, count: int, group_size: int = 1) -> list[asyncio.Task[Any]]:
    prompt = processed(case_named("text-only"), untied)
    settings: dict[str, Any] = {"sampling": LONG, "group_size": group_size, "deadline_s": 600.0}
    return [asyncio.create_task(engine.generate(prompt, seed=seed, **settings)) for seed in range(count)]


async def unfinished(engine: EngineClient) -> int:
    """Requests that vLLM has not answered."""
    return await engine.handle.num_unfinished.remote()


def test_control_calls_do_not_wait_for_requests(run: Run, engine: EngineClient, untied: str) -> None:
    async def work() -> None:
        running = requests(engine, untied, count=4 * MAX_CONCURRENCY)
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


def test_a_probe_is_answered_before_the_requests_in_the_queue(run: Run, engine: EngineClient, untied: str) -> None:
    async def work() -> None:
        prompt, answered = processed(case_named("text-only"), untied), list[asyncio.Task[Any]]()
        # paused, so that all requests are there before any runs
        await engine.pause()
        # one place of the actor stays for the probe
        groups = requests(engine, untied, count=MAX_CONCURRENCY - 1, group_size=2)
        while await unfinished(engine) < LIMIT:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        assert (await engine.stats()).num_waiting > 2 * LIMIT
        settings: dict[str, Any] = {"sampling": SAMPLING, "group_size": 1, "seed": 0, "deadline_s": 60.0}
        probe = asyncio.create_task(engine.generate(prompt, **settings, is_probe=True))
        while await unfinished(engine) <= LIMIT:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        for task in (*groups, probe):
            task.add_done_callback(answered.append)
        await engine.resume()
        assert all(isinstance(answer, Generation) for answer in await asyncio.gather(*groups, probe))
        # vLLM serves in order: the probe would start once fewer sequences are left than one full batch
        assert answered.index(probe) <= len(groups) - (LIMIT + NUM_PROBE_PLACES)

    run(work())


def test_an_engine_counts_its_steps(run: Run, engine: EngineClient, untied: str) -> None:
    async def work() -> None:
        before = await engine.stats()
        # of the warm-up
        assert before.longest_step_s > 0
        await asyncio.gather(*requests(engine, untied, count=1))
        after = await engine.stats()
        assert after.num_steps > before.num_steps
        assert (after.num_running, after.num_waiting) == (0, 0)
        assert 0 <= after.kv_use <= 1

    run(work())


def test_only_workers_that_run_answer_a_heartbeat(run: Run, engine: EngineClient) -> None:
    async def work() -> None:
        await engine.heartbeat()
        processes = await engine.processes()
        assert set(processes) == {"actor", "core", "worker-0"}
        os.kill(processes["worker-0"], signal.SIGSTOP)
        try:
            heartbeat = asyncio.create_task(engine.heartbeat())
            for _ in range(20):
                await engine.stats()
                await asyncio.sleep(0.01)
            assert not heartbeat.done()
        finally:
            os.kill(processes["worker-0"], signal.SIGCONT)
        await heartbeat

    run(work())


def test_a_living_engine_refuses_a_prompt_and_answers_the_next(run: Run, engine: EngineClient, untied: str) -> None:
    async def work() -> None:
        unknown = ProcessedPrompt(prompt_token_ids=(10**9,), tensors={}, placeholders={}, clip_hash="unknown")
        settings: dict[str, Any] = {"sampling": SAMPLING, "group_size": 2, "seed": 0, "deadline_s": 60.0}
        client = EngineClient(engine.handle, name="busy.1", sampling=SAMPLING)
        with pytest.raises(RequestRefusedError, match=r"engine busy\.1: generate: .*out of vocabulary"):
            await client.generate(unknown, **settings)
        answer = await client.generate(processed(case_named("text-only"), untied), **settings)
        assert isinstance(answer, Generation)
        assert answer.engine == "busy"

    run(work())


def test_an_engine_has_a_place_before_it_has_started(run: Run, untied: str) -> None:
    async def work() -> None:
        actor: Any = cast(Any, ray.remote)(concurrency_groups=CONCURRENCY_GROUPS)(EngineActor)
        handle = actor.options(num_cpus=0.2, runtime_env={"env_vars": ENGINE_ENV}).remote(
            name="placed", model_path=untied, config=ENGINE, dtype="float32"
        )
        client = EngineClient(handle, name="placed", sampling=SAMPLING)
        await client.place()
        assert client.node == ray.get_runtime_context().get_node_id()
        with pytest.raises(EngineError, match="engine placed must have started"):
            await client.stats()
        warm_up = asyncio.create_task(client.warm_up([]))
        os.kill((await client.processes())["actor"], signal.SIGKILL)
        with pytest.raises(EngineStartError, match="engine placed: warm_up: the actor died") as error:
            await warm_up
        assert error.value.is_killed

    run(work())


def test_a_core_that_hangs_is_an_error_after_the_deadline_and_not_a_hang(run: Run, engine: EngineClient) -> None:
    async def work() -> None:
        core = (await engine.processes())["core"]
        os.kill(core, signal.SIGSTOP)
        try:
            with pytest.raises(EngineError, match="pause must end within 5 s, and did not"):
                await engine.pause()
            # the actor answers it alone
            await engine.stats()
        finally:
            os.kill(core, signal.SIGKILL)
        with pytest.raises(EngineError, match="busy"):
            await engine.resume()

    run(work())
