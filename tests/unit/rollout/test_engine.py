"""An engine whose core dies or hangs: no call waits for an answer that never comes."""

import asyncio
from typing import Any, cast

import pytest

from rollout.engine import RolloutEngine
from tests.support.clock import run


class SilentCore:
    """An `AsyncLLM` that answers nothing once its core is dead, as vLLM does for calls that are outstanding."""

    dead_error = RuntimeError("EngineCore died")

    def __init__(self) -> None:
        self.errored = False

    async def never(self, *_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    pause_generation = resume_generation = start_weight_update = update_weights = finish_weight_update = never
    reset_prefix_cache = reset_encoder_cache = collective_rpc = never


def engine_of(core: SilentCore) -> RolloutEngine:
    """An engine over a core, without vLLM's processes."""
    engine = RolloutEngine.__new__(RolloutEngine)
    engine.name, engine._llm = "engine-0", cast(Any, core)  # pyright: ignore[reportPrivateUsage]
    engine._lockstep = asyncio.Lock()  # pyright: ignore[reportPrivateUsage]
    return engine


@pytest.mark.parametrize("method", ["pause", "resume", "start_update", "receive", "finish_update", "_empty_caches"])
def test_a_call_that_is_outstanding_when_the_core_dies_is_raised(method: str) -> None:
    arguments: dict[str, dict[str, Any]] = {
        "receive": {"path": "/dev/shm/x", "bucket": 0},
        "finish_update": {"version": 1, "weights_id": "a", "tower_id": "b"},
    }

    async def work() -> None:
        core = SilentCore()
        call = asyncio.create_task(getattr(engine_of(core), method)(**arguments.get(method, {})))
        await asyncio.sleep(5)
        assert not call.done()
        core.errored = True
        # less than anybody's deadline
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="EngineCore died"):
                await call

    run(work())
