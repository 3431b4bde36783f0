"""A run of light engines: the product's fleet, pool, publisher, admission and node agents, on a real Ray.

Only the arithmetic is small: an answer is a function of its seed and of the weights, so that every answer tells
which weights made it. `LightRun` checks each against the weights that were published.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self, cast

import psutil
import ray
from ray.exceptions import RayError

from common.config.learner import PublishConfig
from common.config.rollout import RolloutConfig, SamplingConfig
from common.errors import EngineError
from common.node_agent_actor import COPY_GROUPS, NodeAgent, NodeAgents, agent_options
from common.protocols import WeightReceiver
from common.runtime.engine_processes import ENGINE_VARIABLE
from common.types import Failure, Generation, MediaRef, ProcessedPrompt, Prompt, SamplingSpec
from deploy.engine_host import RayEngineHost
from deploy.run_folder import hold_run_folder
from learner.loops.admission import EngineAdmission
from learner.loops.rank_turn import RankTurn
from learner.publishing.publisher import Publisher
from learner.records.event_log import EventLog
from rollout.actor import CONCURRENCY_GROUPS
from rollout.fleet.dispatcher import Request
from rollout.fleet.fleet import EngineEvent, Fleet
from rollout.pool import RolloutPool
from tests.support.builders import make_draw, text_prompt
from tests.support.fakes import Shared, plan_of
from tests.support.light.engine import LightActor
from tests.support.light.processes import (
    KILLER,
    logprobs_of,
    to_float32,
    tokens_of,
)
from tests.support.light.senders import LightSenders

LAYERS = [[f"{layer}.{part}" for part in ("weight", "bias")] for layer in ("tower-0", "layer-0", "layer-1")]
CLIP = ProcessedPrompt(prompt_token_ids=(1, 2), tensors={}, placeholders={"video": (0, 1)}, clip_hash="clip")
PROBES = (CLIP, text_prompt([3]))
GROUP_SIZE = 2
PACE_S = 0.03
SILENCE_S = 3.0
"""Silence that counts as a hang."""
ANSWER_S = 3.0
START_S = 15.0
AGENT_S = 5.0
WAIT_S = 60.0
SHM = Path("/dev/shm")


class LightRun:
    """One run, inside its `async with` block."""

    def __init__(
        self,
        folder: Path,
        *,
        num_engines: int = 2,
        pace_s: float = PACE_S,
        options: Callable[[str], dict[str, Any]] = lambda slot: {},
    ) -> None:
        """`options` are of the actor of a slot."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._pace_s, self._options = folder, pace_s, options
        self.events = EventLog(folder / "events.jsonl")
        self.transitions: list[EngineEvent] = []
        self.resubmitted: list[tuple[str, str]] = []
        """Draw and incarnation."""
        self.answers: Counter[str] = Counter()
        """By draw."""
        self.error: BaseException | None = None
        """The admission's."""
        self._num_draws = self._step = 0
        self._num_marks = 0
        self.turn = RankTurn()
        self.senders = LightSenders(Shared(plan=plan_of(LAYERS)))
        (folder / "model.json").write_text(json.dumps({n: to_float32(w) for n, w in self.senders.weights.items()}))
        self.weights = {0: dict(self.senders.weights)}
        """Published, by version."""
        self.slots = [f"engine-{i}" for i in range(num_engines)]

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        async with self._stack as stack:
            stack.enter_context(hold_run_folder(self.folder))
            stack.callback(self.senders.close)
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        config = RolloutConfig(answer_deadline_s=ANSWER_S, max_num_seqs=8, sampling=SamplingConfig(max_tokens=8))
        self.agents = await stack.enter_async_context(node_agents(deadline_s=AGENT_S))
        self.host = RayEngineHost(
            self._make_actor,
            model_path=str(self.folder / "model.json"),
            version=0,
            config=config,
            sampling=SamplingSpec(),
            warm_up_prompts=_no_prompts,
            agents=self.agents,
        )
        self.fleet = Fleet(
            self.host,
            slots=self.slots,
            min_engines=1,
            version=0,
            max_sequences=8,
            start_deadline_s=START_S,
            min_silence_s=SILENCE_S,
            notify=self._notify,
            resubmitted=self._note_resubmission,
        )
        self.pool = RolloutPool(
            self.fleet.dispatcher, slots=self.slots, sampling=SamplingSpec(), group_size=GROUP_SIZE, deadline_s=30.0
        )
        self.publisher = Publisher(
            senders=self.senders,
            fleet=self.fleet,
            plan=self.senders.shared.plan,
            segments=[str(segment.path) for segment in self.senders.segments],
            probes=PROBES,
            sampling=SamplingSpec(),
            config=PublishConfig(deadline_s=30.0),
            answer_deadline_s=ANSWER_S,
            dtype="float32",
        )
        await stack.enter_async_context(self.fleet)
        await self.fleet.until_warm()
        await self.publisher.start()
        admission = EngineAdmission(
            fleet=self.fleet, publisher=self.publisher, turn=self.turn, events=self.events, fail=self._fail
        )
        await stack.enter_async_context(admission.running())

    def _make_actor(self, slot: str, token: str, model_path: str, version: int) -> Any:
        actor = cast(Any, ray.remote)(concurrency_groups=CONCURRENCY_GROUPS)(LightActor)
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {ENGINE_VARIABLE: token}}} | self._options(slot)
        return actor.options(**options).remote(
            name=slot, model_path=model_path, version=version, folder=str(self.folder), pace_s=self._pace_s
        )

    def _notify(self, event: EngineEvent) -> None:
        self.transitions.append(event)
        self.events.write(
            event="engine",
            engine=event.engine,
            state=event.state,
            version=event.version,
            reason=event.reason,
            node=event.node,
            pids=event.pids,
        )

    def _note_resubmission(self, request: Request, engine: str) -> None:
        self.resubmitted.append((request.label, engine))
        self.events.write(event="resubmitted", draw=request.label, engine=engine, losses=request.num_losses)

    def _fail(self, error: BaseException) -> None:
        self.error = error

    # -- work --------------------------------------------------------------------------------------

    def draw(self, *, is_killer: bool = False) -> "asyncio.Task[Generation | Failure]":
        """The next draw, with a seed of its own; its answer is checked."""
        number, self._num_draws = self._num_draws, self._num_draws + 1
        prompt = self._prompt(number, is_killer=is_killer)
        return asyncio.create_task(self._answer(prompt))

    async def _answer(self, prompt: Prompt) -> Generation | Failure:
        answer = await self.pool(prompt)
        self._check(prompt, answer)
        return answer

    async def together(self, count: int) -> list[Generation | Failure]:
        """A batch in lockstep, whose answers are checked."""
        prompts = [self._prompt(self._num_draws + i) for i in range(count)]
        self._num_draws += count
        answers = await self.pool.together(prompts)
        for prompt, answer in zip(prompts, answers, strict=True):
            self._check(prompt, answer)
        return answers

    def _prompt(self, number: int, *, is_killer: bool = False) -> Prompt:
        tokens = (number % 97 + 1, KILLER) if is_killer else (number % 97 + 1, 5)
        return Prompt(
            draw=make_draw(f"clip-{number}"),
            media=MediaRef(text_prompt(tokens)),
            num_prompt_tokens=2,
            seed=1000 * number,
        )

    def _check(self, prompt: Prompt, answer: Generation | Failure) -> None:
        """Made once, of this seed, by an engine that is not condemned, with the weights of its version."""
        key = prompt.draw.key
        self.answers[key] += 1
        assert self.answers[key] == 1, f"{key} was answered twice"
        if isinstance(answer, Failure):
            return
        version = answer.submission_version
        assert version == self.publisher.version, f"{key} was made with version {version}"
        tokens = cast(ProcessedPrompt, prompt.media).prompt_token_ids
        for index, completion in enumerate(answer.completions):
            assert list(completion.token_ids) == tokens_of(prompt.seed, index), f"{key} has another seed"
            expected = logprobs_of(self.weights[version], tokens, False, completion.token_ids)
            assert list(completion.rollout_logprobs) == expected, f"{key} was not made with version {version}"
            assert self.state(completion.text) == "ready", f"{key} was made by {completion.text}"

    async def step(self, *, num_draws: int = 4) -> list[Generation | Failure]:
        """Completions, an optimizer step, a publish."""
        self._step += 1
        self.events.begin_step(self._step)
        with self.events.phase("rollout"):
            answers = await asyncio.gather(*(self.draw() for _ in range(num_draws)))
        await self.publish()
        return answers

    async def publish(self, *, meanwhile: Awaitable[None] | None = None) -> None:
        """An optimizer step and its publish; every READY engine then has it.

        `meanwhile` is awaited between both: the ranks hold a version that no engine has.
        """
        async with self.turn.changing():
            with self.events.phase("learn"):
                self.senders.step()
                self.weights[self.publisher.version + 1] = dict(self.senders.weights)
                await (meanwhile or asyncio.sleep(self._pace_s))
            with self.events.phase("publish"):
                await self.publisher.publish()
            await self.check_holdings()

    async def check_holdings(self) -> None:
        """Every READY engine holds the fleet's version, by what its worker says."""
        expected = {name: to_float32(weight) for name, weight in self.senders.weights.items()}
        for name in self.ready():
            try:
                version, weights = await asyncio.wait_for(self.handle(name).holdings.remote(), ANSWER_S)
            except (RayError, EngineError, TimeoutError):
                # broken meanwhile, and about to be condemned
                continue
            if self.state(name) == "ready":
                assert version == self.publisher.version, f"{name} has version {version}"
                assert weights == expected, f"{name} does not hold version {version}"

    # -- what is seen from outside -----------------------------------------------------------------

    def state(self, incarnation: str) -> str:
        """The last transition of an incarnation."""
        return next((e.state for e in reversed(self.transitions) if e.engine == incarnation), "")

    def has_been(self, incarnation: str, state: str) -> bool:
        """True if an incarnation was ever in a state."""
        return any(e.engine == incarnation and e.state == state for e in self.transitions)

    def reason(self, incarnation: str) -> str:
        """Of its loss; empty before."""
        return next((e.reason for e in self.transitions if e.engine == incarnation and e.state == "condemned"), "")

    def current(self, slot: str) -> str:
        """The last incarnation of a slot."""
        return next(e.engine for e in reversed(self.transitions) if e.engine.startswith(f"{slot}."))

    def ready(self) -> list[str]:
        """READY incarnations."""
        return [name for name in map(self.current, self.slots) if self.state(name) == "ready"]

    def handle(self, incarnation: str) -> Any:
        """The actor."""
        return self.host._hosted[incarnation].handle  # pyright: ignore[reportPrivateUsage]

    def engine(self, incarnation: str) -> WeightReceiver:
        """The fleet's client."""
        return self.host._hosted[incarnation].client  # pyright: ignore[reportPrivateUsage]

    async def agent(self) -> int:
        """The process id of the node's agent."""
        (handle,) = self.agents._agents.results().values()  # pyright: ignore[reportPrivateUsage]
        return await handle.pid.remote()

    def marks(self) -> list[dict[str, Any]]:
        """Lines that the engines' processes wrote."""
        path = self.folder / "phases.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self, incarnation: str, process: str) -> int | None:
        """The process id of an engine's actor, core or worker, once it has been born."""
        births = (m for m in self.marks() if m["phase"] == "start" and m["engine"] == incarnation)
        return next((m["pid"] for m in births if m["process"] == process), None)

    def order(self, incarnation: str, order: str) -> None:
        """An order for an engine, see `processes`."""
        (self.folder / f"{incarnation}.{order}").touch()

    async def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Waits until a function is true, and returns its value."""
        end_s = time.monotonic() + WAIT_S
        while True:
            if self.error is not None:
                raise self.error
            if value := holds():
                return value
            assert time.monotonic() < end_s, f"{what}: {[(e.engine, e.state, e.reason) for e in self.transitions]}"
            await asyncio.sleep(0.005)

    async def until_phase(self, incarnation: str, phase: str, *, after: int) -> None:
        """Waits until the worker of an engine begins a call, in the marks after a number of them."""
        await self.until(
            lambda: any(m["phase"] == phase and m["engine"] == incarnation for m in self.marks()[after:]),
            f"{incarnation} must begin {phase}",
        )

    async def until_all_ready(self) -> None:
        """Waits until every slot is READY."""
        await self.until(lambda: len(self.ready()) == len(self.slots), "all slots must be READY")

    def segments(self) -> set[str]:
        """Segments of the engines' processes that are still in /dev/shm."""
        names = {m["process"] for m in self.marks() if m["phase"] == "segment"}
        return {name for name in names if (SHM / name).exists()}

    def processes(self) -> dict[str, set[int]]:
        """Live processes that carry the token of an engine of this run, by incarnation."""
        births = {m["pid"] for m in self.marks() if m["phase"] == "start"}
        by_token: dict[str, set[int]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                token = process.environ().get(ENGINE_VARIABLE, "")
                if token and process.status() != psutil.STATUS_ZOMBIE:
                    by_token.setdefault(token, set()).add(process.pid)
        # another run on this machine has tokens of its own
        return {token.rpartition("/")[2]: pids for token, pids in by_token.items() if pids & births}


def strike(pid: int, how: str) -> None:
    """SIGKILL or SIGSTOP to one process."""
    os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)


async def moment(pace_s: float, chance: random.Random) -> None:
    """A random part of a call."""
    await asyncio.sleep(chance.uniform(0, pace_s))


@contextlib.asynccontextmanager
async def node_agents(*, deadline_s: float = 30.0) -> AsyncGenerator[NodeAgents]:
    """The product's agents, ended with the block."""

    def make(node: str) -> Any:
        agent = cast(Any, ray.remote)(concurrency_groups=COPY_GROUPS)(NodeAgent)
        return agent.options(**agent_options(node)).remote()

    agents = NodeAgents(make, deadline_s=deadline_s)
    try:
        yield agents
    finally:
        await agents.close()


async def _no_prompts() -> list[ProcessedPrompt]:
    return []
