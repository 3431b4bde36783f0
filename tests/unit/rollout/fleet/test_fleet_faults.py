"""Invariants of a fleet and its pool over any order of draws, faults, publishes and admissions."""

import asyncio
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import EngineStartError
from common.types import Failure, Generation
from rollout.fleet.dispatcher import MAX_LOSSES
from tests.support.clock import JumpingLoop
from tests.support.fleet import START_S, StubEngine, StubHost, deliver
from tests.unit.rollout.fleet.test_fleet import GROUP_SIZE, Scene, prompt_of

NUM_SLOTS = 3
MAX_SEQUENCES = 8


class CountingEngine(StubEngine):
    """An engine whose answers tell which incarnation made them."""

    host: "CountingHost"

    async def generate(self, media: Any, *, seed: int, group_size: int, **request: Any) -> Generation | Failure:
        generation = await super().generate(media, seed=seed, group_size=group_size, **request)
        self.host.makers[len(self.host.makers)] = self.incarnation
        return self.host.numbered(generation)


class CountingHost(StubHost):
    """A host whose answers are numbered."""

    engine = CountingEngine

    def __init__(self) -> None:
        super().__init__()
        self.makers: dict[int, str] = {}
        """Incarnation by answer."""

    def numbered(self, generation: Any) -> Generation:
        """The answer with its number as the version."""
        return Generation(
            completions=generation.completions[:GROUP_SIZE],
            submission_version=len(self.makers) - 1,
            engine=generation.engine,
        )


class FleetMachine(RuleBasedStateMachine):
    """Faults in any order; the loop's clock jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        self.host = CountingHost()
        self.num_draws = 0
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        self.answers: dict[int, list[Any]] = {}
        self.admission: asyncio.Task[None] | None = None
        self.step(self.open())

    async def open(self) -> None:
        self.scene = Scene(self.host, num_slots=NUM_SLOTS, min_engines=0)
        await self.scene.fleet.__aenter__()
        await self.scene.fleet.until_warm()
        await deliver(self.scene.fleet)

    def step(self, work: Any) -> Any:
        """Runs the loop for a piece of work."""
        asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(work)

    def alive(self) -> list[StubEngine]:
        return [engine for engine in self.host.engines.values() if not engine.has_ended.is_set()]

    @rule(count=st.integers(1, 6), is_killer=st.booleans())
    def draw(self, count: int, is_killer: bool) -> None:
        async def begin() -> None:
            for _ in range(count):
                number, self.num_draws = self.num_draws, self.num_draws + 1
                if is_killer and count == 1:
                    self.host.killers.add(f"clip-{number}")
                task = asyncio.create_task(self.scene.pool(prompt_of(f"clip-{number}", seed=number)))
                self.tasks[number] = task
                task.add_done_callback(lambda t, n=number: self.note(n, t))

        self.step(begin())

    def note(self, number: int, task: asyncio.Task[Any]) -> None:
        """An answer, and whether its engine was condemned when it came."""
        if task.cancelled():
            return
        answer = task.result()
        self.answers.setdefault(number, []).append(answer)
        if isinstance(answer, Generation):
            maker = self.host.makers[answer.submission_version]
            assert "condemned" not in self.scene.states(maker), f"{maker} was condemned"

    @rule(data=st.data(), how=st.sampled_from(["dies", "hangs", "is reported"]))
    def fault(self, data: st.DataObject, how: str) -> None:
        if engines := self.alive():
            engine = data.draw(st.sampled_from(engines))
            if how == "dies":
                engine.break_down()
            elif how == "hangs":
                engine.hangs = True
            else:
                self.step(self.report(engine))

    async def report(self, engine: Any) -> None:
        self.scene.fleet.lost(engine, reason="reported")

    @rule(slot=st.integers(0, NUM_SLOTS - 1), number=st.integers(1, 6))
    def next_start_fails(self, slot: int, number: int) -> None:
        error = EngineStartError("killed", is_killed=True)
        self.host.start_errors.setdefault(f"engine-{slot}.{number}", error)

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 45.0]))
    def wait(self, seconds: float) -> None:
        self.step(asyncio.sleep(seconds))

    @rule(data=st.data(), is_admission=st.booleans(), is_aborted=st.booleans(), seconds=st.sampled_from([0.0, 3.0]))
    def publish(self, data: st.DataObject, is_admission: bool, is_aborted: bool, seconds: float) -> None:
        outcomes = data.draw(st.lists(st.sampled_from(["delivered", "lost", "silent"]), min_size=9, max_size=9))
        self.step(self.transfer(outcomes, is_admission=is_admission, is_aborted=is_aborted, seconds=seconds))

    async def transfer(self, outcomes: list[str], *, is_admission: bool, is_aborted: bool, seconds: float) -> None:
        fleet = self.scene.fleet
        for engine in fleet.unverified():
            fleet.rehearsed(engine)
        members = fleet.begin_delivery(fleet.version + (not is_admission), only_joining=is_admission)
        await asyncio.sleep(seconds)
        for engine, outcome in zip(members, outcomes, strict=False):
            if outcome == "delivered":
                fleet.delivered(engine)
            elif outcome == "lost":
                fleet.lost(engine, reason="receipt")
        if is_aborted:
            fleet.abort_delivery()
        else:
            fleet.end_delivery()

    @invariant()
    def each_draw_is_answered_once_and_with_its_seed(self) -> None:
        assert all(len(answers) == 1 for answers in self.answers.values())
        assert all(media == f"clip-{seed}" for _, media, seed in self.host.requests)

    @invariant()
    def a_draw_is_asked_at_most_as_often_as_engines_may_be_lost(self) -> None:
        media = [name for _, name, _ in self.host.requests]
        assert all(media.count(name) <= MAX_LOSSES for name in set(media))

    @invariant()
    def engines_that_serve_hold_the_fleets_version(self) -> None:
        last = {event.engine: event for event in self.scene.events}
        ready = [event for event in last.values() if event.state == "ready"]
        assert all(event.version == self.scene.fleet.version for event in ready)

    @invariant()
    def what_is_in_flight_is_bounded(self) -> None:
        for name in self.host.engines:
            assert GROUP_SIZE * self.scene.fleet.dispatcher.num_in_flight(name) <= MAX_SEQUENCES

    @precondition(lambda self: self.admission is None)
    @rule()
    def quiet(self) -> None:
        """Once faults stop, every draw is answered, and every slot that has not retired serves again."""
        self.host.start_errors.clear()
        self.host.killers.clear()

        async def settle() -> None:
            fleet = self.scene.fleet
            for engine in self.alive():
                engine.hangs = False
            for _ in range(8):
                await asyncio.sleep(START_S)
                await deliver(fleet, fleet.version)
            retired = [e for e in self.scene.events if "in a row" in e.reason]
            if not fleet.slots or len(self.scene.ready()) == 0:
                # every slot is lost: nothing will answer
                return
            done, pending = await asyncio.wait(self.tasks.values(), timeout=4000) if self.tasks else ((), ())
            assert not pending, (len(done), len(pending))
            assert len(self.scene.ready()) == fleet.num_possible, (self.scene.ready(), retired)

        self.step(settle())

    def teardown(self) -> None:
        async def end() -> None:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
            await self.scene.fleet.__aexit__(None, None, None)

        self.step(end())
        self.loop.close()


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, phases=(Phase.generate,)
)
