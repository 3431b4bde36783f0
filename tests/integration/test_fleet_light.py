"""Every process of an engine killed or stopped in every state and phase: real Ray, fleet, pool, publisher, agents.

The engines are light (`tests/support/light`). Each is an actor, a core and a worker with a segment in /dev/shm,
which die and hang as vLLM's do. After each fault every draw has been answered once, with its seed and the weights
of its version; the slot is READY and answers; nothing is left of the engine that was lost.
"""

import asyncio
import gc
import json
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.errors import EngineStartError
from common.types import Failure, Generation
from rollout.fleet import lifecycle
from tests.support.light.chosen import choose
from tests.support.light.run import PACE_S, LightRun, moment, strike

Run = Callable[[Coroutine[Any, Any, Any]], Any]
pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(240)]
SLOT = "engine-0"
PROCESSES = ("actor", "core", "worker")
CALLS = {"pause": "pause", "bucket": "receive", "finish": "finish_update", "probe": "generate"}
"""Calls of the worker in the phases of a publish."""
MOMENTS = ("starting", "rehearsing", "waiting", "idle", "generate", *CALLS)
MATRIX = [(how, process, when) for how in ("kill", "stop") for process in PROCESSES for when in MOMENTS]
NUM_RANDOM = 50


class Scene:
    """A run that tests share as long as it is whole."""

    def __init__(self, run: Run, root: Path) -> None:
        self._run, self._root, self._num_runs = run, root, 0
        self._light: LightRun | None = None

    def work(self, work: Callable[[LightRun], Awaitable[None]]) -> None:
        """Runs a test's work, and what must hold after it."""
        self._run(self._work(work))

    async def _work(self, work: Callable[[LightRun], Awaitable[None]]) -> None:
        if self._light is None:
            self._num_runs += 1
            self._light = await LightRun(self._root / f"run-{self._num_runs}").__aenter__()
            await self._light.step()
        try:
            await work(self._light)
            await assert_whole(self._light)
        except BaseException:
            # what comes next gets another run
            light, self._light = self._light, None
            await light.__aexit__(None, None, None)
            raise

    def close(self) -> None:
        """Ends the run; nothing of it is left."""
        if self._light is not None:
            self._run(end(self._light))


@pytest.fixture(scope="module")
def scene(local_ray: None, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two light engines; slots ask for the next one at once."""
    patch = pytest.MonkeyPatch()
    patch.setattr(lifecycle, "BACKOFF_S", (0.0, 0.2, 0.5))
    scene = Scene(run, tmp_path_factory.mktemp("light"))
    yield scene
    scene.close()
    patch.undo()


async def end(light: LightRun) -> None:
    """Ends a run and looks for its leavings."""
    await light.__aexit__(None, None, None)
    assert light.processes() == {}
    assert light.segments() == set()


async def assert_whole(light: LightRun) -> None:
    """All slots READY and answering; no process and no segment but theirs."""
    await light.until_all_ready()
    engines: set[str] = set()
    for _ in range(5):
        answers = await light.step(num_draws=2 * len(light.slots))
        engines |= {answer.engine for answer in answers if isinstance(answer, Generation)}
        if engines == set(light.slots):
            break
    assert engines == set(light.slots)
    assert len(light.ready()) == len(light.slots)
    await light.until(lambda: set(light.processes()) == set(light.ready()), "only READY engines have processes")
    await light.until(lambda: len(light.segments()) == len(light.slots), "only READY engines have segments")


def chance() -> random.Random:
    """A random moment, whose seed a failed test shows."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


async def break_at(light: LightRun, how: str, process: str, when: str) -> str:
    """Signals a process of an engine at a random moment of a state or phase; returns the incarnation."""
    luck, victim, mark = chance(), light.current(SLOT), len(light.marks())
    work: Awaitable[Any] | None = None
    length_s = PACE_S
    if when in {"starting", "rehearsing", "waiting"}:
        victim = await restart(light, victim)
        if when != "starting":
            await light.until(lambda: light.has_been(victim, when), f"{victim} must be {when}")
            length_s = 8 * PACE_S
    elif when == "generate":
        work = asyncio.gather(*(light.draw() for _ in range(6)))
        await light.until_phase(victim, "generate", after=mark)
    elif when in CALLS:
        work = asyncio.ensure_future(light.publish())
        await light.until_phase(victim, CALLS[when], after=mark)
    pid = await light.until(lambda: light.pid(victim, process), f"{victim} must have a {process}")
    await moment(length_s, luck)
    strike(pid, how)
    if work is not None:
        await work
    return victim


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def restart(light: LightRun, victim: str) -> str:
    """Kills an engine; returns the incarnation that takes its place."""
    strike(await light.until(lambda: light.pid(victim, "actor"), "it has begun"), "kill")
    return await light.until(
        lambda: name if (name := light.current(SLOT)) != victim else None, f"{victim} must be replaced"
    )


async def lost(light: LightRun, victim: str) -> str:
    """Waits until an engine is condemned, with draws in the queue meanwhile; returns the reason."""
    draws = [light.draw() for _ in range(4)]
    reason = await light.until(lambda: light.reason(victim), f"{victim} must be condemned")
    assert all(isinstance(answer, Generation) for answer in await asyncio.gather(*draws))
    return reason


@pytest.mark.long
@pytest.mark.parametrize(("how", "process", "when"), MATRIX)
def test_a_process_that_is_broken_in_any_phase(scene: Scene, how: str, process: str, when: str) -> None:
    async def work(light: LightRun) -> None:
        await lost(light, await break_at(light, how, process, when))

    scene.work(work)


def test_one_fault_that_the_commit_chooses(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    how, process, when = choose(MATRIX)
    with capsys.disabled():
        print(f"\nthe fault of this commit: {how} {process}, {when}")
    scene.work(lambda light: lost_at(light, how, process, when))


async def lost_at(light: LightRun, how: str, process: str, when: str) -> None:
    await lost(light, await break_at(light, how, process, when))


@pytest.mark.long
def test_an_engine_that_hangs_in_a_bucket_is_condemned_and_the_other_goes_on(scene: Scene) -> None:
    async def work(light: LightRun) -> None:
        victim = light.current(SLOT)
        light.order(victim, "hang-receive")
        await light.publish()
        assert "update on engine-0" in light.reason(victim)
        assert light.ready() == [light.current("engine-1")]

    scene.work(work)


@pytest.mark.long
@pytest.mark.parametrize("order", ["wrong-receipt", "drop-tensor"])
def test_an_engine_with_a_wrong_receipt_is_condemned_and_the_other_goes_on(scene: Scene, order: str) -> None:
    async def work(light: LightRun) -> None:
        victim = light.current(SLOT)
        light.order(victim, order)
        await light.publish()
        assert light.reason(victim).startswith("receipt on engine-0")
        assert light.ready() == [light.current("engine-1")]

    scene.work(work)


@pytest.mark.long
def test_an_engine_that_joins_while_the_ranks_train_waits_for_their_turn(scene: Scene) -> None:
    async def work(light: LightRun) -> None:
        victim = light.current(SLOT)

        async def join() -> None:
            strike(await light.until(lambda: light.pid(victim, "core"), "it has a core"), "kill")
            following = await light.until(
                lambda: name if (name := light.current(SLOT)) != victim else None, f"{victim} must be replaced"
            )
            await light.until(lambda: light.has_been(following, "rehearsing"), "it must be warm")
            # an admission would be over
            await asyncio.sleep(40 * PACE_S)
            assert light.state(following) in {"rehearsing", "waiting"}

        await light.publish(meanwhile=join())

    scene.work(work)


@pytest.mark.long
def test_late_answers_of_a_condemned_engine_are_void(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(light: LightRun) -> None:
        end = light.host.end

        async def end_late(incarnation: str, *, is_lost: bool) -> None:
            await asyncio.sleep(30 * PACE_S)
            await end(incarnation, is_lost=is_lost)

        monkeypatch.setattr(light.host, "end", end_late)
        victim, mark = light.current(SLOT), len(light.marks())
        draws = [light.draw() for _ in range(8)]
        await light.until_phase(victim, "generate", after=mark)
        # it lives on for a while, and answers
        light.fleet.lost(light.engine(victim), reason="the test says so")
        await asyncio.gather(*draws)

    scene.work(work)


@pytest.mark.long
def test_a_full_shm_costs_one_start(scene: Scene) -> None:
    async def work(light: LightRun) -> None:
        victim = light.current(SLOT)
        following = f"{SLOT}.{int(victim.rpartition('.')[2]) + 1}"
        light.order(following, "full-shm")
        assert await restart(light, victim) == following
        assert "No space left on device" in await lost(light, following)

    scene.work(work)


@pytest.mark.long
def test_a_full_shm_at_the_first_start_ends_the_run_with_its_cause(run: Run, tmp_path: Path) -> None:
    async def work() -> None:
        light = LightRun(tmp_path / "run")
        for slot in light.slots:
            light.order(f"{slot}.1", "full-shm")
        with pytest.raises(EngineStartError, match="No space left on device"):
            await light.__aenter__()
        assert light.processes() == {}
        assert light.segments() == set()

    run(work())


@pytest.mark.long
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_all_engines_at_once(scene: Scene, how: str) -> None:
    async def work(light: LightRun) -> None:
        draws = [light.draw() for _ in range(8)]
        victims = light.ready()
        for victim in victims:
            strike(await light.until(lambda v=victim: light.pid(v, "core"), "it has a core"), how)
        assert all(isinstance(answer, Generation) for answer in await asyncio.gather(*draws))
        assert all(light.reason(victim) for victim in victims)

    scene.work(work)


@pytest.mark.long
def test_a_clip_that_kills_engines_fails_and_every_other_draw_is_made(scene: Scene) -> None:
    async def work(light: LightRun) -> None:
        killer = light.draw(is_killer=True)
        draws = [light.draw() for _ in range(8)]
        answer = await killer
        assert isinstance(answer, Failure)
        assert answer.reason == "kills-engines"
        assert all(isinstance(answer, Generation) for answer in await asyncio.gather(*draws))
        assert light.fleet.num_possible == len(light.slots)

    scene.work(work)


@pytest.mark.long
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_node_agent_that_is_broken_is_made_again(scene: Scene, how: str) -> None:
    async def work(light: LightRun) -> None:
        agent, victim = await light.agent(), light.current(SLOT)
        strike(agent, how)
        await light.step()
        strike(await light.until(lambda: light.pid(victim, "core"), "it has a core"), "kill")
        await lost(light, victim)
        # a stopped agent must not stay either
        await light.until(lambda: not is_alive(agent), f"agent {agent} must end")

    scene.work(work)


@pytest.mark.long
def test_in_lockstep_a_share_is_made_again(scene: Scene) -> None:
    async def work(light: LightRun) -> None:
        batch = asyncio.create_task(light.together(8))
        victim, mark = light.current(SLOT), len(light.marks())
        await light.until_phase(victim, "generate", after=mark)
        strike(await light.until(lambda: light.pid(victim, "worker"), "it has a worker"), "kill")
        answers = await batch
        assert [a.engine for a in answers if isinstance(a, Generation)] == light.slots * 4

    scene.work(work)


@asynccontextmanager
async def steps(light: LightRun) -> AsyncGenerator[None]:
    """A block in which the run takes steps."""

    is_over = asyncio.Event()

    async def work() -> None:
        while not is_over.is_set():
            await light.step()

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        # a step that is cancelled leaves the ranks without the published version
        is_over.set()
        await task


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_fifty_faults_at_random_leave_nothing_behind(run: Run, scene: Scene, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    async def work() -> None:
        light = await LightRun(tmp_path / "run").__aenter__()
        await light.step()
        before = resources()
        arguments = [
            "--run",
            str(light.folder),
            "--seed",
            str(seed),
            "--count",
            str(NUM_RANDOM),
            "--deadline",
            "60",
        ]
        async with steps(light):
            tool = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.support.faults", *arguments, "--deadline", "60", stdout=-1, stderr=-1
            )
            out, complaint = await tool.communicate()
        assert tool.returncode == 0, complaint.decode()
        print(out.decode())
        assert len([json.loads(line) for line in out.splitlines()]) == NUM_RANDOM
        await assert_whole(light)
        assert_same(resources(), before)
        await end(light)

    run(work())


def resources() -> dict[str, float]:
    """Of the driver."""
    gc.collect()
    process = psutil.Process()
    return {"descriptors": process.num_fds(), "MiB": process.memory_info().rss / 2**20}


def assert_same(after: dict[str, float], before: dict[str, float]) -> None:
    """Ray keeps a little of each actor that it has known."""
    print(before, after)
    assert after["descriptors"] <= before["descriptors"] + NUM_RANDOM / 2
    assert after["MiB"] <= before["MiB"] + 2 * NUM_RANDOM
