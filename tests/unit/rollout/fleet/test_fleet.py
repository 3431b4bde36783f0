"""A fleet over engines that crash, hang or start badly: draws, versions and replacements."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from common.errors import EngineError, EngineStartError, FleetError
from common.types import Failure, Generation, MediaRef, Prompt, SamplingSpec
from rollout.fleet.fleet import EngineEvent, Fleet
from rollout.pool import RolloutPool
from tests.support.builders import make_draw
from tests.support.clock import JumpingLoop, run
from tests.support.fleet import ANSWER_S, START_S, StubHost, deliver

GROUP_SIZE = 2


class Scene:
    """A fleet, its pool, and the transitions that were reported."""

    def __init__(
        self, host: StubHost, *, num_slots: int = 2, min_engines: int = 1, is_static: bool = False
    ) -> None:
        self.host = host
        self.events: list[EngineEvent] = []
        self.resubmitted: list[tuple[str, str, int]] = []
        self.fleet = Fleet(
            host,
            slots=[f"engine-{i}" for i in range(num_slots)],
            min_engines=min_engines,
            version=0,
            max_sequences=8,
            start_deadline_s=300.0,
            is_static=is_static,
            notify=self.events.append,
            resubmitted=lambda r, engine: self.resubmitted.append((r.label, engine, r.num_losses)),
        )
        self.pool = RolloutPool(
            self.fleet.dispatcher,
            slots=self.fleet.slots,
            sampling=SamplingSpec(),
            group_size=GROUP_SIZE,
            deadline_s=60.0,
        )

    def states(self, engine: str) -> list[str]:
        """The states that an incarnation went through."""
        return [event.state for event in self.events if event.engine == engine]

    def ready(self) -> list[str]:
        """Incarnations whose last state is READY, with their versions."""
        last = {event.engine: event for event in self.events}
        return [f"{name} at {event.version}" for name, event in last.items() if event.state == "ready"]


def prompt_of(name: str, *, seed: int = 0) -> Prompt:
    """Whose media is its name."""
    return Prompt(draw=make_draw(name), media=MediaRef(name), num_prompt_tokens=3, seed=seed)


async def until(holds: Callable[[], bool]) -> None:
    """Returns when it holds."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.5)


def fleet_test(work: Callable[[Scene], Awaitable[None]], **options: Any) -> Scene:
    """Runs a scene whose engines are warm and have the next version."""
    host = options.pop("host", None) or StubHost()
    is_delivered = options.pop("is_delivered", True)

    async def scene() -> Scene:
        scene = Scene(host, **options)
        async with scene.fleet:
            if is_delivered:
                await scene.fleet.until_warm()
                await deliver(scene.fleet)
            await work(scene)
        return scene

    return run(scene())


@asynccontextmanager
async def admission(scene: Scene) -> AsyncGenerator[None]:
    """Engines that come back are delivered the standing version, as by the publisher between two publishes."""

    async def admit() -> None:
        while True:
            await scene.fleet.until_joining()
            await deliver(scene.fleet, scene.fleet.version)

    task = asyncio.create_task(admit())
    try:
        yield
    finally:
        task.cancel()


def test_an_engine_serves_only_after_a_delivery() -> None:
    async def work(scene: Scene) -> None:
        await scene.fleet.until_warm()
        answer = asyncio.create_task(scene.pool(prompt_of("clip")))
        await asyncio.sleep(100)
        assert scene.host.requests == []
        await deliver(scene.fleet)
        assert isinstance(await answer, Generation)

    fleet_test(work, is_delivered=False)


def test_a_static_fleet_serves_what_its_engines_have_loaded() -> None:
    async def work(scene: Scene) -> None:
        assert isinstance(await scene.pool(prompt_of("clip")), Generation)
        await scene.fleet.until_warm()
        assert scene.ready() == ["engine-0.1 at 0", "engine-1.1 at 0"]

    fleet_test(work, is_delivered=False, is_static=True)


def test_the_draws_of_a_dead_engine_are_made_by_others_with_their_seeds() -> None:
    async def work(scene: Scene) -> None:
        draws = [asyncio.create_task(scene.pool(prompt_of(f"clip-{i}", seed=i))) for i in range(8)]
        await asyncio.sleep(ANSWER_S / 2)
        scene.host.engines["engine-0.1"].break_down()
        answers = await asyncio.gather(*draws)
        assert [answer.min_policy_version for answer in answers] == list(range(8))
        assert {engine for _, engine, _ in scene.resubmitted} == {"engine-0.1"}
        seeds: dict[str, set[int]] = {}
        for _, media, seed in scene.host.requests:
            seeds.setdefault(media, set()).add(seed)
        assert all(len(s) == 1 for s in seeds.values())

    scene = fleet_test(work)
    assert scene.states("engine-0.1")[-2:] == ["condemned", "gone"]


def test_the_draws_of_a_lost_engine_come_before_those_that_wait() -> None:
    async def work(scene: Scene) -> None:
        async with admission(scene):
            draws = [asyncio.create_task(scene.pool(prompt_of(f"clip-{i}"))) for i in range(6)]
            await asyncio.sleep(ANSWER_S / 2)
            scene.host.engines["engine-0.1"].break_down()
            await asyncio.gather(*draws)
        asked = [media for _, media, _ in scene.host.requests]
        first = [f"clip-{i}" for i in range(4)]
        assert asked == [*first, *first, "clip-4", "clip-5"]

    fleet_test(work, num_slots=1)


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_lost_engine_is_replaced_and_serves_after_an_admission(how: str) -> None:
    async def work(scene: Scene) -> None:
        async with admission(scene):
            engine = scene.host.engines["engine-0.1"]
            if how == "dies":
                engine.break_down()
            else:
                engine.hangs = True
            # the only other engine is lost for good: all work needs the new one
            answer = await scene.pool(prompt_of("clip", seed=3))
            assert isinstance(answer, Generation)
            assert scene.host.requests[-1][0] == "engine-0.2"

    scene = fleet_test(work, num_slots=1)
    assert "ready" in scene.states("engine-0.2")
    reason = next(e.reason for e in scene.events if e.engine == "engine-0.1" and e.state == "condemned")
    assert ("hangs" in reason) == (how == "hangs")


def test_a_hang_is_found_after_half_a_minute_and_not_before() -> None:
    async def work(scene: Scene) -> None:
        scene.host.engines["engine-0.1"].hangs = True
        await asyncio.sleep(25)
        assert "condemned" not in scene.states("engine-0.1")
        await asyncio.sleep(10)
        assert "condemned" in scene.states("engine-0.1")

    fleet_test(work)


def test_a_driver_that_stood_still_condemns_nobody() -> None:
    async def work(scene: Scene) -> None:
        for seconds in (35.0, 1000.0):
            await asyncio.sleep(0.5)
            # as after Ctrl-Z and `fg`: the clock went on, and nothing else did
            cast(JumpingLoop, asyncio.get_running_loop()).jump(seconds)
            await asyncio.sleep(20)
        assert not any(event.state == "condemned" for event in scene.events)
        scene.host.engines["engine-0.1"].hangs = True
        await asyncio.sleep(35)
        assert "condemned" in scene.states("engine-0.1")

    fleet_test(work)


def test_a_slow_engine_is_not_condemned_for_a_step_of_forty_seconds() -> None:
    host = StubHost()
    host.longest_step_s = 30.0

    async def work(scene: Scene) -> None:
        scene.host.engines["engine-0.1"].hangs = True
        await asyncio.sleep(41)
        scene.host.engines["engine-0.1"].hangs = False
        await asyncio.sleep(60)
        assert "condemned" not in scene.states("engine-0.1")

    fleet_test(work, host=host)


def test_a_late_answer_of_a_lost_engine_is_void() -> None:
    async def work(scene: Scene) -> None:
        draw = asyncio.create_task(scene.pool(prompt_of("clip", seed=5)))
        await asyncio.sleep(0.1)
        ((first, _, _),) = scene.host.requests
        engine = scene.host.engines[first]
        scene.fleet.lost(engine, reason="receipt")  # pyright: ignore[reportArgumentType]
        answer = await draw
        assert isinstance(answer, Generation)
        assert [name for name, _, _ in scene.host.requests] == [first, "engine-1.1"]
        # a second report, and one from the transfer, change nothing
        scene.fleet.lost(engine, reason="late")  # pyright: ignore[reportArgumentType]
        assert scene.states(first).count("condemned") == 1

    fleet_test(work)


@pytest.mark.parametrize("num_slots", [1, 2])
def test_a_clip_that_kills_engines_fails_and_the_others_are_made(num_slots: int) -> None:
    host = StubHost()
    host.killers = {"clip-2"}

    async def work(scene: Scene) -> None:
        async with admission(scene):
            answers = await asyncio.gather(*(scene.pool(prompt_of(f"clip-{i}", seed=i)) for i in range(6)))
        failures = {i: a for i, a in enumerate(answers) if isinstance(a, Failure)}
        assert list(failures) == [2]
        assert failures[2].reason == "kills-engines"
        assert sum(media == "clip-2" for _, media, _ in scene.host.requests) == 3

    scene = fleet_test(work, host=host, num_slots=num_slots)
    # the clip is to blame, not a slot
    assert not any("in a row" in event.reason for event in scene.events)


def test_in_lockstep_a_clip_that_kills_engines_fails_and_the_rest_is_made_together() -> None:
    host = StubHost()
    host.killers = {"clip-2"}

    async def work(scene: Scene) -> None:
        async with admission(scene):
            answers = await scene.pool.together([prompt_of(f"clip-{i}", seed=i) for i in range(6)])
        assert [isinstance(a, Failure) for a in answers] == [i == 2 for i in range(6)]
        assert scene.host.batches[-1][1] == ("clip-0", "clip-4")

    fleet_test(work, host=host)


def test_a_share_is_made_again_as_a_whole_by_its_own_slot() -> None:
    async def work(scene: Scene) -> None:
        async with admission(scene):
            share = asyncio.create_task(scene.pool.together([prompt_of(f"clip-{i}", seed=i) for i in range(4)]))
            await asyncio.sleep(ANSWER_S / 2)
            scene.host.engines["engine-1.1"].break_down()
            answers = await share
        assert [answer.engine for answer in answers] == ["engine-0", "engine-1"] * 2
        mine = [clips for name, clips in scene.host.batches if name.startswith("engine-1")]
        assert mine == [("clip-1", "clip-3")] * 2

    fleet_test(work)


def test_a_share_that_is_lost_twice_without_a_guilty_clip_is_the_same_share_in_the_end() -> None:
    async def work(scene: Scene) -> None:
        async with admission(scene):
            share = asyncio.create_task(scene.pool.together([prompt_of(f"clip-{i}", seed=i) for i in range(2)]))
            for number in (1, 2):
                async with asyncio.timeout(200):
                    await until(lambda n=number: len(scene.host.batches) == n)
                scene.host.engines[f"engine-0.{number}"].break_down()
            answers = await share
        assert not any(isinstance(answer, Failure) for answer in answers)
        both, alone = ("clip-0", "clip-1"), [("clip-0",), ("clip-1",)]
        assert [clips for _, clips in scene.host.batches] == [both, both, *alone, both]

    fleet_test(work, num_slots=1)


def test_an_engine_that_cannot_start_ends_the_start_with_its_cause() -> None:
    host = StubHost()
    host.start_errors = {"engine-0.1": EngineStartError("engine-0 could not start: no memory")}

    async def work(scene: Scene) -> None:
        with pytest.raises(EngineStartError, match="no memory"):
            await scene.fleet.until_warm()
        with pytest.raises(EngineStartError, match="no memory"):
            await scene.pool(prompt_of("clip"))

    fleet_test(work, host=host, is_delivered=False)


def test_an_engine_that_is_killed_while_it_starts_is_started_again() -> None:
    host = StubHost()
    host.start_errors = {"engine-0.1": EngineStartError("killed by SIGKILL", is_killed=True)}

    async def work(scene: Scene) -> None:
        await scene.fleet.until_warm()
        # the other is enough to begin
        assert "rehearsing" not in scene.states("engine-0.2")
        await asyncio.sleep(2 * START_S)
        assert scene.states("engine-0.2")[-1] == "rehearsing"

    fleet_test(work, host=host, is_delivered=False)


def test_a_slot_that_is_lost_three_times_retires_and_the_run_goes_on_with_the_rest() -> None:
    host = StubHost()
    late = {f"engine-1.{n}": EngineStartError("no port", is_killed=True) for n in range(1, 9)}
    host.start_errors = dict(late)

    async def work(scene: Scene) -> None:
        await scene.fleet.until_warm()
        await deliver(scene.fleet)
        assert isinstance(await scene.pool(prompt_of("clip")), Generation)
        await asyncio.sleep(10 * START_S)
        assert scene.ready() == ["engine-0.1 at 1"]

    scene = fleet_test(work, host=host, is_delivered=False)
    assert "engine-1.3" in host.engines
    assert "engine-1.4" not in host.engines
    assert any("no port" in event.reason for event in scene.events)


def test_with_all_engines_needed_the_start_waits_for_one_that_was_lost() -> None:
    host = StubHost()
    host.start_errors = {"engine-0.1": EngineStartError("killed by SIGKILL", is_killed=True)}

    async def work(scene: Scene) -> None:
        await scene.fleet.until_warm()
        assert scene.states("engine-0.2")[-1] == "rehearsing"

    fleet_test(work, host=host, is_delivered=False, min_engines=2)


def test_an_engine_that_cannot_be_ended_retires_its_slot() -> None:
    host = StubHost()

    async def end(incarnation: str, *, is_lost: bool) -> None:
        raise EngineError("a process is in state D")

    async def work(scene: Scene) -> None:
        host.end = end
        host.engines["engine-0.1"].break_down()
        with pytest.raises(FleetError, match="could not be ended: a process is in state D"):
            await scene.pool(prompt_of("clip"))

    fleet_test(work, host=host, num_slots=1)


def test_a_listener_that_fails_ends_the_run_and_no_transition() -> None:
    async def work(scene: Scene) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        scene.fleet._notify = full
        scene.host.seconds = {"clip": 1000.0}
        draw = asyncio.create_task(scene.pool(prompt_of("clip")))
        await asyncio.sleep(1)
        scene.host.engines["engine-0.1"].break_down()
        scene.host.engines["engine-1.1"].break_down()
        with pytest.raises(OSError, match="No space left"):
            await draw

    fleet_test(work)


def test_an_engine_that_dies_under_any_load_is_blamed_in_the_end() -> None:
    host = StubHost()
    host.killers = {f"clip-{i}" for i in range(40)}

    async def work(scene: Scene) -> None:
        async with admission(scene):
            draws = [asyncio.create_task(scene.pool(prompt_of(f"clip-{i}"))) for i in range(40)]
            with pytest.raises(FleetError, match="in a row"):
                await asyncio.gather(*draws)
            for draw in draws:
                draw.cancel()

    fleet_test(work, host=host, num_slots=1)
    assert len(host.engines) < 20


def test_too_few_engines_end_the_run_with_their_last_words() -> None:
    async def work(scene: Scene) -> None:
        async with admission(scene):
            scene.host.seconds = {"clip": 1000.0}
            draw = asyncio.create_task(scene.pool(prompt_of("clip")))
            scene.host.start_errors = {
                f"engine-0.{n}": EngineStartError("out of memory", is_killed=True) for n in range(2, 9)
            }
            scene.host.engines["engine-0.1"].break_down()
            with pytest.raises(FleetError, match=r"at least 2 engines .* got 1: engine-0: .*out of memory"):
                await draw
            with pytest.raises(FleetError):
                await scene.fleet.until_joining()

    fleet_test(work, min_engines=2)


def test_an_engine_that_was_no_member_of_a_publish_waits() -> None:
    async def work(scene: Scene) -> None:
        scene.host.engines["engine-0.1"].break_down()
        await asyncio.sleep(5)
        members = scene.fleet.begin_delivery(2)
        await asyncio.sleep(START_S + 10)
        for engine in scene.fleet.unverified():
            scene.fleet.rehearsed(engine)
        for engine in members:
            scene.fleet.delivered(engine)
        scene.fleet.end_delivery()
        assert [engine.name for engine in members] == ["engine-1"]
        assert scene.ready() == ["engine-1.1 at 2"]
        assert scene.states("engine-0.2")[-1] == "waiting"

    fleet_test(work)


def test_an_aborted_transfer_leaves_no_engine_that_serves() -> None:
    async def work(scene: Scene) -> None:
        (first, _) = scene.fleet.begin_delivery(2)
        scene.fleet.delivered(first)
        scene.fleet.abort_delivery()
        assert scene.ready() == []
        draw = asyncio.create_task(scene.pool(prompt_of("clip")))
        await asyncio.sleep(50)
        assert scene.host.requests == []
        await deliver(scene.fleet, 1)
        assert isinstance(await draw, Generation)

    fleet_test(work)


def test_the_end_of_the_block_ends_every_engine() -> None:
    async def work(scene: Scene) -> None:
        scene.host.engines["engine-0.1"].break_down()
        await asyncio.sleep(3)

    scene = fleet_test(work)
    assert {"engine-0.1", "engine-0.2", "engine-1.1"} <= set(scene.host.ended)


def test_a_cancelled_draw_frees_its_place() -> None:
    async def work(scene: Scene) -> None:
        scene.host.seconds = {"slow": 1000.0}
        slow = [asyncio.create_task(scene.pool(prompt_of("slow"))) for _ in range(4)]
        waiting = asyncio.create_task(scene.pool(prompt_of("clip")))
        await asyncio.sleep(10)
        assert not waiting.done()
        slow[0].cancel()
        assert isinstance(await waiting, Generation)
        for task in slow:
            task.cancel()

    fleet_test(work, num_slots=1)


def test_what_is_in_flight_is_bounded() -> None:
    async def work(scene: Scene) -> None:
        draws = [asyncio.create_task(scene.pool(prompt_of(f"clip-{i}"))) for i in range(30)]
        await asyncio.sleep(ANSWER_S / 2)
        # two engines, eight sequences each, groups of two
        assert len(scene.host.requests) == 8
        await asyncio.gather(*draws)

    fleet_test(work)
