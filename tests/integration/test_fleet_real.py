"""One fault in a real engine, which the commit chooses: the next incarnation makes the same completions."""

import asyncio
import os
import signal
import time
from typing import Any, cast

import psutil
import pytest
import ray

from common.runtime.engine_processes import ENGINE_VARIABLE
from common.types import Generation, MediaRef, Prompt
from deploy.engine_host import RayEngineHost
from rollout.actor import CONCURRENCY_GROUPS, EngineActor
from rollout.fleet.fleet import EngineEvent, Fleet
from rollout.pool import RolloutPool
from tests.integration.conftest import Run
from tests.support.builders import make_draw
from tests.support.engines import ENGINE, ENGINE_ENV, SAMPLING
from tests.support.light.chosen import choose
from tests.support.light.run import node_agents
from tests.support.media.clips import case_named, processed

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(300)]
FAULTS = [(how, process) for how in ("kill", "stop") for process in ("actor", "core", "worker-0")]
NAMES = ("av-12fps", "audio-only", "text-only")
SILENCE_S = 5.0


def test_a_real_engine_that_is_broken_while_it_generates_is_replaced(
    run: Run, untied: str, capsys: pytest.CaptureFixture[str]
) -> None:
    how, process = choose(FAULTS)
    with capsys.disabled():
        print(f"\nthe fault of this commit: {how} {process}")
    run(_replaced(untied, how, process))


def _make(slot: str, token: str, model_path: str, version: int) -> Any:
    actor = cast(Any, ray.remote)(concurrency_groups=CONCURRENCY_GROUPS)(EngineActor)
    env = {"env_vars": ENGINE_ENV | {ENGINE_VARIABLE: token}}
    return actor.options(num_cpus=0.2, runtime_env=env).remote(
        name=slot, model_path=model_path, config=ENGINE, dtype="float32", version=version
    )


async def _replaced(model_path: str, how: str, process: str) -> None:
    events: list[EngineEvent] = []
    prompts = [processed(case_named(name), model_path) for name in NAMES]

    async def warm_up() -> Any:
        return prompts

    async with node_agents() as agents:
        host = RayEngineHost(
            _make,
            model_path=model_path,
            version=0,
            config=ENGINE,
            sampling=SAMPLING,
            warm_up_prompts=warm_up,
            agents=agents,
        )
        fleet = Fleet(
            host,
            slots=["engine-0"],
            min_engines=1,
            version=0,
            max_sequences=64,
            start_deadline_s=150.0,
            min_silence_s=SILENCE_S,
            is_static=True,
            notify=events.append,
        )
        pool = RolloutPool(fleet.dispatcher, slots=fleet.slots, sampling=SAMPLING, group_size=8, deadline_s=120.0)
        batch = [
            Prompt(
                draw=make_draw(name), media=MediaRef(p), num_prompt_tokens=len(p.prompt_token_ids), seed=1000 * i
            )
            for i, (name, p) in enumerate(zip(NAMES, prompts, strict=True))
        ]
        async with fleet:
            before = await pool.together(batch)
            pids = next(event.pids for event in events if event.pids)
            again = asyncio.create_task(pool.together(batch))
            await asyncio.sleep(0.1)
            os.kill(pids[process], signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            broken_s = time.monotonic()
            assert _bits(await again) == _bits(before)
            print(f"answered {time.monotonic() - broken_s:.1f} s after the fault")
            states = [(event.engine, event.state) for event in events]
            assert ("engine-0.1", "condemned") in states
            assert states[-1] == ("engine-0.2", "ready")
            assert not any(map(_is_alive, pids.values()))


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _bits(answers: Any) -> Any:
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [[(c.token_ids, c.rollout_logprobs) for c in answer.completions] for answer in answers]
