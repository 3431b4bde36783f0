"""Whose turn it is among the calls of one reward; over channels that do what a test says."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from common.config.reward import ActorRewardConfig, PythonRewardConfig, RewardEntry
from reward import turns
from reward.channel import ChannelLostError
from reward.outcome import Outcome, RewardFault
from reward.pool import PooledReward
from reward.request import RewardRequest, RewardResult
from tests.support.reward_requests import make_request


class FakeChannel:
    """Hangs on `hang`, dies of `die`, gives the number of the channel for anything else."""

    def __init__(self, log: "Log", concurrency: int) -> None:
        log.num_made += 1
        self.takes_groups, self.concurrency, self.decision, self.is_lost = False, concurrency, "", False
        self._log, self._number = log, log.num_made
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """As the test says."""
        await self._log.opening(self._number)
        self._log.num_open += 1
        self._log.most_open = max(self._log.most_open, self._log.num_open)

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """As the completion says."""
        text = requests[0].completion
        self._log.asked.append(text)
        if text == "raise":
            raise OSError("a wire is cut")
        if text == "die":
            await asyncio.sleep(0.01)
            self.is_lost = True
            self._lost.set_result(None)
        waited = asyncio.ensure_future(asyncio.sleep({"hang": 600, "slow": 0.8}.get(text, 0.02)))
        await asyncio.wait((waited, self._lost), return_when=asyncio.FIRST_COMPLETED)
        waited.cancel()
        if self._lost.done():
            raise ChannelLostError("died")
        return [RewardResult(value=float(self._number))]

    async def where(self) -> str:
        """Nowhere."""
        return ""

    async def abandon(self) -> bool:
        """As a process of code that is not async."""
        if self.concurrency == 1:
            self.end()
        return False

    def end(self) -> None:
        """Once."""
        if self not in self._log.ended:
            self._log.ended.append(self)
            self._log.num_open -= 1
        self.is_lost = True


async def at_once(number: int) -> None:
    """Opens."""
    await asyncio.sleep(0)


class Log:
    """What channels were made and asked."""

    def __init__(self, opening: Callable[[int], Coroutine[Any, Any, None]] | None = None) -> None:
        self.num_made = self.num_open = self.most_open = 0
        self.asked: list[str] = []
        self.ended: list[FakeChannel] = []
        self.opening = opening or at_once


PYTHON = PythonRewardConfig(type="python", name="mine", entrypoint="a:b", deadline_s=30.0, max_retries=0)
ACTOR = ActorRewardConfig(type="actor", name="mine", entrypoint="a:b", deadline_s=0.5, max_retries=0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is slow after 200 ms."""
    monkeypatch.setattr(turns, "MIN_SLOW_S", 0.2)
    monkeypatch.setattr(turns, "SLOW_FRACTION", 0.0)


async def started(
    log: Log, *, entry: RewardEntry = PYTHON, size: int = 1, num_spare: int = 1, concurrency: int = 1
) -> PooledReward:
    """A reward over such channels."""
    pool = PooledReward(entry, make_channel=lambda: FakeChannel(log, concurrency), size=size, num_spare=num_spare)
    await pool.start()
    return pool


def asked(pool: PooledReward, *texts: str) -> asyncio.Task[list[Outcome]]:
    """A group, asked about."""
    return asyncio.ensure_future(pool([make_request(text) for text in texts]))


def test_a_channel_that_never_opens_keeps_nobody_from_one_that_is_free() -> None:
    async def opening(number: int) -> None:
        await asyncio.sleep(600 if number > 1 else 0)

    async def run() -> list[list[Outcome]]:
        log = Log(opening)
        pool = await started(log)
        async with asyncio.timeout(20):
            got = await asyncio.gather(*(asked(pool, "slow") for _ in range(3)))
        assert log.num_made == 2
        pool.close()
        return got

    assert asyncio.run(run()) == [[RewardResult(value=1.0)]] * 3


@pytest.mark.parametrize("num_hanging", [4, 12])
def test_slow_calls_are_as_many_as_there_are_spare_places(num_hanging: int) -> None:
    async def run() -> Log:
        log = Log()
        pool = await started(log)
        hanging = [asked(pool, "hang", "hang") for _ in range(num_hanging)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await asked(pool, "good", "good")
            assert not any(task.done() for task in hanging)
            # and again, where they are known
            log.asked.clear()
            await asyncio.gather(*(asked(pool, "good") for _ in range(20)))
        assert log.asked.count("good") == 20
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        pool.close()
        return log

    log = asyncio.run(run())
    assert log.most_open <= 2
    # calls of a group that hangs wait behind the others: one of each has kept a place for a while
    assert log.num_made <= num_hanging + 6


def test_a_call_that_was_stopped_is_asked_anew_for_its_whole_deadline() -> None:
    async def run() -> tuple[list[Outcome], list[str]]:
        log = Log()
        pool = await started(log)
        first, second = asked(pool, "slow"), asked(pool, "slow")
        others = [asked(pool, "good") for _ in range(3)]
        async with asyncio.timeout(20):
            got = [outcome for task in (first, second, *others) for outcome in await task]
        pool.close()
        return got, log.asked

    got, texts = asyncio.run(run())
    assert all(isinstance(outcome, RewardResult) for outcome in got)
    assert 2 <= texts.count("slow") <= 3


def test_what_takes_long_but_comes_back_is_not_slow() -> None:
    async def run() -> Log:
        log = Log()
        pool = await started(log)
        await asked(pool, "slow")
        made = log.num_made
        await asyncio.gather(*(asked(pool, "slow") for _ in range(3)))
        assert log.num_made == made
        pool.close()
        return log

    assert asyncio.run(run()).asked == ["slow"] * 4


def test_there_are_never_more_actors_than_replicas() -> None:
    async def run() -> tuple[Log, list[list[Outcome]]]:
        log = Log()
        pool = await started(log, entry=ACTOR, size=2, num_spare=0)
        tasks = [asked(pool, text) for text in ("hang", "die", "hang", "good", "hang", "good")]
        async with asyncio.timeout(20):
            got = await asyncio.gather(*tasks)
        pool.close()
        return log, got

    log, got = asyncio.run(run())
    assert log.most_open == 2
    assert [isinstance(outcomes[0], RewardResult) for outcomes in got] == [False, False, False, True, False, True]


def test_calls_that_shared_a_death_are_asked_alone_and_one_that_dies_alone_fails() -> None:
    async def run() -> tuple[list[list[Outcome]], Log]:
        log = Log()
        pool = await started(log, concurrency=8, num_spare=0)
        async with asyncio.timeout(20):
            got = await asyncio.gather(*(asked(pool, text) for text in ("good", "die", "good", "die", "good")))
            assert isinstance((await asked(pool, "good"))[0], RewardResult)
        pool.close()
        return got, log

    got, log = asyncio.run(run())
    assert [isinstance(outcomes[0], RewardResult) for outcomes in got] == [True, False, True, False, True]
    assert log.most_open == 1


def test_who_waited_to_be_alone_and_was_cancelled_keeps_no_channel() -> None:
    async def run() -> None:
        pool = await started(Log(), concurrency=4, num_spare=0)
        dying, waiting = asked(pool, "die"), asked(pool, "slow")
        await asyncio.sleep(0.05)
        waiting.cancel()
        dying.cancel()
        async with asyncio.timeout(20):
            assert isinstance((await asked(pool, "good"))[0], RewardResult)
        pool.close()

    asyncio.run(run())


def test_who_fails_is_asked_again_behind_who_was_never_asked() -> None:
    async def run() -> list[str]:
        log = Log()
        pool = await started(log, entry=PYTHON.model_copy(update={"max_retries": 1}))
        await asyncio.gather(*(asked(pool, text) for text in ("raise", *["good"] * 10)))
        pool.close()
        return log.asked

    texts = asyncio.run(run())
    assert texts == ["raise", *["good"] * 10, "raise"]


def test_whatever_a_channel_raises_is_a_fault_of_the_group() -> None:
    async def run() -> list[Outcome]:
        pool = await started(Log())
        got = await asked(pool, "raise")
        pool.close()
        return got

    (fault,) = asyncio.run(run())
    assert isinstance(fault, RewardFault)
    assert fault.detail.endswith("OSError: a wire is cut")


def test_a_channel_that_does_not_come_up_fails_one_call_that_waits_for_it() -> None:
    async def opening(number: int) -> None:
        await asyncio.sleep(0)
        if number == 2:
            raise ChannelLostError("no room")

    async def run() -> list[list[Outcome]]:
        pool = await started(Log(opening))
        async with asyncio.timeout(20):
            got = await asyncio.gather(*(asked(pool, text) for text in ("die", "good", "good")))
        pool.close()
        return got

    got = asyncio.run(run())
    assert sum(isinstance(outcomes[0], RewardResult) for outcomes in got) == 1
    assert {o[0].detail for o in got if isinstance(o[0], RewardFault)} == {"died", "no room"}
