"""A `RolloutEngine` over a scripted vLLM: deaths of its core, the turn of requests, and the count of its steps."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from vllm.outputs import CompletionOutput, RequestOutput

from common.config.rollout import RolloutConfig
from common.types import Failure, Generation, ProcessedPrompt, SamplingSpec
from rollout.admission import WAITING_DEADLINES, Admission
from rollout.engine import RolloutEngine
from rollout.engine_stats import EngineStats, Step, StepCounter
from tests.support.clock import run

PROMPT = ProcessedPrompt(prompt_token_ids=(1, 2), tensors={}, placeholders={}, clip_hash="clip")


class SilentCore:
    """An `AsyncLLM` that answers nothing once its core is dead, as vLLM does for calls that are outstanding."""

    dead_error = RuntimeError("EngineCore died")

    def __init__(self) -> None:
        self.errored = False

    async def never(self, *_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    pause_generation = resume_generation = start_weight_update = update_weights = finish_weight_update = never
    reset_prefix_cache = reset_encoder_cache = collective_rpc = never


def identity_of(prompt: ProcessedPrompt, **identity: str) -> dict[str, str]:
    """Stands for vLLM's input of a prompt."""
    return identity


def engine_of(core: Any, *, limit: int = 4) -> RolloutEngine:
    """An engine over a core, without vLLM's processes."""
    engine: Any = RolloutEngine.__new__(RolloutEngine)
    engine.name, engine._llm = "engine-0", core
    engine.config = RolloutConfig(max_model_len=256)
    engine._version, engine._weights_id, engine._tower_id = 0, "0", "0"
    engine._lockstep, engine._request_ids = asyncio.Lock(), iter(range(100))
    engine._engine_input = identity_of
    engine._steps = StepCounter()
    engine._admission = Admission(max_sequences=limit, min_sequences=2, count=engine._num_unfinished)
    return cast(RolloutEngine, engine)


@pytest.mark.parametrize(
    "method", ["pause", "resume", "start_update", "receive", "finish_update", "_empty_caches", "heartbeat"]
)
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


@dataclass(kw_only=True)
class Queue:
    """The output of one request to come."""

    request_id: str
    num_sequences: int
    identity: dict[str, str]
    output: asyncio.Future[RequestOutput]

    async def get(self) -> RequestOutput:
        return await self.output


class ScriptedCore:
    """An `AsyncLLM` whose requests end when the test says so."""

    errored = False
    dead_error = RuntimeError("EngineCore died")

    def __init__(self) -> None:
        self.queues: list[Queue] = []
        self.aborted: list[str] = []
        self.output_processor = self

    def get_num_unfinished_requests(self) -> int:
        return sum(queue.num_sequences for queue in self.unfinished())

    def unfinished(self) -> list[Queue]:
        return [q for q in self.queues if not q.output.done() and q.request_id not in self.aborted]

    async def add_request(self, request_id: str, identity: dict[str, str], params: Any) -> Queue:
        output: asyncio.Future[RequestOutput] = asyncio.get_running_loop().create_future()
        queue = Queue(request_id=request_id, num_sequences=params.n, identity=identity, output=output)
        self.queues.append(queue)
        return queue

    async def abort(self, request_ids: list[str], *, internal: bool) -> None:
        self.aborted += request_ids

    async def pause_generation(self, **_: Any) -> None: ...

    async def resume_generation(self) -> None: ...

    def end(self, engine: RolloutEngine, index: int) -> None:
        """Ends a request, and the step in which it ended."""
        num_sequences = self.queues[index].num_sequences
        completions = [
            CompletionOutput(i, "", [7], 0.0, cast(Any, [{7: cast(Any, Logprob())}]), finish_reason="stop")
            for i in range(num_sequences)
        ]
        output = RequestOutput(f"{index}", None, [1], None, completions, finished=True)
        self.queues[index].output.set_result(output)
        step_of(engine, num_running=self.get_num_unfinished_requests())


class Logprob:
    """vLLM's entry of one token."""

    logprob = -1.0


def step_of(engine: RolloutEngine, **values: Any) -> None:
    fields: dict[str, Any] = {"num_running": 0, "num_waiting": 0, "kv_use": 0.0, "num_preempted": 0} | values
    engine._stepped(Step(**fields))  # pyright: ignore[reportPrivateUsage]


def ask(engine: RolloutEngine, *, group_size: int = 2, **more: Any) -> asyncio.Task[Generation | Failure]:
    settings: dict[str, Any] = {"sampling": SamplingSpec(max_tokens=4), "seed": 0, "deadline_s": 60.0} | more
    return asyncio.create_task(engine.generate(PROMPT, group_size=group_size, **settings))


def test_requests_beyond_the_limit_wait_and_a_probe_does_not() -> None:
    async def work() -> None:
        core = ScriptedCore()
        engine = engine_of(core, limit=4)
        groups = [ask(engine) for _ in range(3)]
        score = asyncio.create_task(engine.score(PROMPT, prefix_ids=(), text_ids=(5,), deadline_s=60.0))
        await asyncio.sleep(1)
        assert [queue.num_sequences for queue in core.queues] == [2, 2]
        assert engine.stats().num_waiting == 4 + 2 + 1
        probe = ask(engine, group_size=1, is_probe=True)
        await asyncio.sleep(1)
        core.end(engine, 2)
        assert isinstance(await probe, Generation)
        assert not any(group.done() for group in groups)
        core.end(engine, 0)
        await asyncio.sleep(1)
        # the third group, and the score only once another sequence has ended
        assert [queue.num_sequences for queue in core.queues] == [2, 2, 1, 2]
        core.end(engine, 1)
        await asyncio.sleep(1)
        assert [queue.num_sequences for queue in core.queues] == [2, 2, 1, 2, 1]
        score.cancel()

    run(work())


def test_the_version_and_the_caches_are_those_of_the_admission() -> None:
    async def work() -> None:
        core = ScriptedCore()
        engine: Any = engine_of(core, limit=2)
        first, second = ask(engine), ask(engine)
        await asyncio.sleep(1)
        engine._version, engine._weights_id = 1, "b"
        core.end(engine, 0)
        await asyncio.sleep(1)
        core.end(engine, 1)
        answers = [await first, await second]
        assert [cast(Generation, answer).submission_version for answer in answers] == [0, 1]
        assert [queue.identity["cache_salt"] for queue in core.queues] == ["0", "b"]

    run(work())


def test_a_deadline_counts_from_the_admission() -> None:
    async def work() -> None:
        core = ScriptedCore()
        engine = engine_of(core, limit=2)
        first, second = ask(engine, deadline_s=60.0), ask(engine, deadline_s=60.0)
        await asyncio.sleep(50)
        core.end(engine, 0)
        await asyncio.sleep(50)
        core.end(engine, 1)
        assert isinstance(await first, Generation)
        assert isinstance(await second, Generation)
        late = await ask(engine, deadline_s=60.0)
        assert isinstance(late, Failure)
        assert late.detail == "engine engine-0: 60 s passed"
        assert core.aborted == [core.queues[2].request_id]

    run(work())


def test_the_wait_for_admission_ends_before_the_caller_gives_up() -> None:
    async def work() -> None:
        core = ScriptedCore()
        engine = engine_of(core, limit=2)
        busy = ask(engine, deadline_s=10_000.0)
        await asyncio.sleep(1)
        late = await ask(engine, deadline_s=60.0)
        assert isinstance(late, Failure)
        assert late.detail == f"engine engine-0: {60 * WAITING_DEADLINES:.0f} s passed before its admission"
        assert len(core.queues) == 1
        busy.cancel()

    run(work())


def test_an_aborted_request_frees_its_places_without_a_step() -> None:
    async def work() -> None:
        core = ScriptedCore()
        engine = engine_of(core, limit=2)
        running, waiting = ask(engine), ask(engine)
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.sleep(1)
        assert len(core.queues) == 2
        core.end(engine, 1)
        assert isinstance(await waiting, Generation)

    run(work())


def test_a_request_that_waits_when_the_core_dies_is_raised() -> None:
    async def work() -> None:
        core = ScriptedCore()
        engine = engine_of(core, limit=2)
        busy, waiting = ask(engine), ask(engine)
        await asyncio.sleep(1)
        core.errored = True
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="EngineCore died"):
                await waiting
        assert engine.stats().num_waiting == 2
        busy.cancel()

    run(work())


def test_preemptions_reach_the_admission_and_the_statistics() -> None:
    async def work() -> None:
        core = ScriptedCore()
        engine: Any = engine_of(core, limit=6)
        groups = [ask(engine) for _ in range(3)]
        await asyncio.sleep(1)
        step_of(engine, num_running=5, num_waiting=1, kv_use=1.0, num_preempted=1)
        assert engine._admission.limit == 4
        stats = engine.stats()
        assert (stats.num_steps, stats.num_running, stats.num_waiting) == (1, 5, 1)
        assert (stats.kv_use, stats.num_preemptions) == (1.0, 1)
        for group in groups:
            group.cancel()

    run(work())


def test_pauses_and_idle_time_are_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr("time.monotonic", asyncio.get_running_loop().time)
        core = ScriptedCore()
        engine = engine_of(core)
        group = ask(engine, deadline_s=600.0)
        await asyncio.sleep(2)
        step_of(engine, num_running=2)
        await engine.pause()
        await asyncio.sleep(100)
        await engine.resume()
        await asyncio.sleep(3)
        core.end(engine, 0)
        await group
        await asyncio.sleep(100)
        last = ask(engine)
        await asyncio.sleep(1)
        core.end(engine, 1)
        await last
        assert engine.stats() == EngineStats(num_steps=3, longest_step_s=3.0)

    run(work())
