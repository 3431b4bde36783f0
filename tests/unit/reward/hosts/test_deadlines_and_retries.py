"""The policy of `reward/hosts/deadlines_and_retries.py`, over workers that do what a test says."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from common.config.reward import ActorRewardConfig, PythonRewardConfig, RewardEntry
from reward.hosts import deadlines_and_retries as policy
from reward.hosts.deadlines_and_retries import PooledReward
from reward.hosts.reward_host import HostLostError, RewardHost
from reward.outcome import Outcome, RewardFault
from reward.request import RewardRequest, RewardResult
from tests.support.reward.requests import make_request


class FakeHost(RewardHost):
    """Hangs on `hang`, dies of `die`, gives the number of the worker for anything else."""

    is_owned = True

    def __init__(self, log: "Log", concurrency: int) -> None:
        log.num_made += 1
        self._log, self.concurrency, self._number = log, concurrency, log.num_made
        self._is_blocked = self._is_open = False
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """As the test says."""
        await self._log.opening(self._number)
        self._is_open = True
        self._log.num_open += 1
        self._log.most_open = max(self._log.most_open, self._log.num_open)

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """As the completion says; whoever blocks holds the worker's event loop, if it has one."""
        if not requests:
            await asyncio.sleep(600 if self._is_blocked else 0)
            return []
        text = requests[0].completion
        self._log.asked.append(text)
        if text == "raise":
            raise OSError("a wire is cut")
        if text == "die":
            await asyncio.sleep(0.01)
            self.is_lost = True
            self._lost.set_result(None)
        self._is_blocked = self._is_blocked or text == "block"
        seconds = 600 if self._is_blocked else {"hang": 600, "slow": 0.8}.get(text, 0.02)
        waited = asyncio.ensure_future(asyncio.sleep(seconds))
        await asyncio.wait((waited, self._lost), return_when=asyncio.FIRST_COMPLETED)
        waited.cancel()
        if self._lost.done():
            raise HostLostError("died")
        return [RewardResult(value=float(self._number))]

    def end(self) -> None:
        """Once."""
        if self not in self._log.ended:
            self._log.ended.append(self)
            self._log.num_open -= self._is_open
        self.is_lost = True
        if not self._lost.done():
            self._lost.set_result(None)


async def at_once(number: int) -> None:
    """Opens."""
    await asyncio.sleep(0)


class Log:
    """What hosts were made and asked."""

    def __init__(self, opening: Callable[[int], Coroutine[Any, Any, None]] | None = None) -> None:
        self.num_made = self.num_open = self.most_open = 0
        self.asked: list[str] = []
        self.ended: list[FakeHost] = []
        self.opening = opening or at_once


PYTHON = PythonRewardConfig(type="python", name="mine", entrypoint="a:b", deadline_s=30.0, max_retries=0)
ACTOR = ActorRewardConfig(type="actor", name="mine", entrypoint="a:b", deadline_s=0.5, max_retries=0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are busy for long after 200 ms; one of async code that is stuck is found out after as much."""
    monkeypatch.setattr(policy, "MIN_BUSY_S", 0.2)
    monkeypatch.setattr(policy, "BUSY_FRACTION", 0.0)
    monkeypatch.setattr("reward.hosts.reward_host.ANSWER_S", 0.2)


async def started(
    log: Log, *, entry: RewardEntry = PYTHON, size: int = 1, num_spare: int = 1, concurrency: int = 1
) -> PooledReward:
    """A reward over such hosts."""
    pool = PooledReward(entry, make_host=lambda: FakeHost(log, concurrency), size=size, num_spare=num_spare)
    await pool.start()
    return pool


def asked(pool: PooledReward, *texts: str) -> asyncio.Task[list[Outcome]]:
    """A group, asked about."""
    return asyncio.ensure_future(pool([make_request(text) for text in texts]))


def test_a_host_that_never_opens_keeps_no_call_from_one_that_is_free() -> None:
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


@pytest.mark.parametrize(("num_groups", "num_spare"), [(1, 1), (4, 4), (12, 12)])
def test_groups_that_hang_hold_up_no_other_while_there_are_spare_workers(num_groups: int, num_spare: int) -> None:
    async def run() -> Log:
        log = Log()
        pool = await started(log, num_spare=num_spare)
        hanging = [asked(pool, "hang", "hang", "hang") for _ in range(num_groups)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await asked(pool, "good", "good")
            assert not any(task.done() for task in hanging)
            assert log.most_open <= 1 + num_spare
            log.asked.clear()
            await asyncio.gather(*(asked(pool, "good") for _ in range(20)))
        assert log.asked.count("good") == 20
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        pool.close()
        return log

    assert asyncio.run(run()).num_open == 0


def test_calls_that_waited_for_another_of_their_group_are_asked_after_it() -> None:
    async def run() -> tuple[list[Outcome], list[str]]:
        log = Log()
        pool = await started(log, num_spare=3)
        hanging = asked(pool, "hang")
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            got = await asked(pool, "slow", "good", "good", "good")
        hanging.cancel()
        pool.close()
        return got, log.asked

    got, texts = asyncio.run(run())
    assert all(isinstance(outcome, RewardResult) for outcome in got)
    assert texts == ["hang", "slow", "good", "good", "good"]


def test_spare_workers_end_when_no_call_waits() -> None:
    async def run() -> Log:
        log = Log()
        pool = await started(log, num_spare=3)
        hanging = [asked(pool, "hang"), asked(pool, "hang")]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await asyncio.gather(*(asked(pool, "good") for _ in range(4)))
            # two of them hold a call that hangs
            while log.num_open > 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        pool.close()
        return log

    assert asyncio.run(run()).most_open > 2


def test_no_spare_worker_is_opened_while_calls_are_answered() -> None:
    async def run() -> Log:
        log = Log()
        pool = await started(log, num_spare=4)
        await asked(pool, "slow")
        # 1.6 s is a long answer now, not 0.2 s
        await asyncio.gather(*(asked(pool, "slow") for _ in range(3)))
        await asyncio.gather(*(asked(pool, "good") for _ in range(40)))
        pool.close()
        return log

    log = asyncio.run(run())
    assert (log.num_made, log.asked.count("slow"), log.asked.count("good")) == (1, 4, 40)


def test_a_worker_past_the_deadline_of_its_call_is_replaced_at_once() -> None:
    async def run() -> tuple[list[Outcome], Log]:
        log = Log()
        pool = await started(log, entry=PYTHON.model_copy(update={"deadline_s": 0.1}), num_spare=0)
        outcomes = await asked(pool, "hang")
        async with asyncio.timeout(20):
            # nobody waits for it
            while log.num_made < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        pool.close()
        return outcomes, log

    (fault,), log = asyncio.run(run())
    assert isinstance(fault, RewardFault)
    assert (fault.kind, fault.detail) == ("deadline", "0.1 s passed")
    assert log.most_open == 1


def test_what_a_group_was_not_asked_yet_is_not_asked_once_one_has_failed() -> None:
    async def run() -> list[str]:
        log = Log()
        pool = await started(log, num_spare=0)
        await asked(pool, "raise", "good", "good")
        pool.close()
        return log.asked

    assert asyncio.run(run()) == ["raise"]


def test_async_code_that_is_given_up_loses_no_worker_and_one_that_is_stuck_is_killed() -> None:
    async def run(text: str) -> tuple[list[list[Outcome]], Log]:
        log = Log()
        pool = await started(log, entry=PYTHON.model_copy(update={"deadline_s": 0.5}), num_spare=0, concurrency=8)
        async with asyncio.timeout(20):
            got = await asyncio.gather(asked(pool, text), asked(pool, "slow" if text == "block" else "good"))
        pool.close()
        return got, log

    (bad, good), log = asyncio.run(run("hang"))
    assert (isinstance(bad[0], RewardFault), good, log.num_made) == (True, [RewardResult(value=1.0)], 1)
    # both pass the deadline in the stuck worker: each is asked once more, alone
    (bad, slow), log = asyncio.run(run("block"))
    assert log.asked[:2] == ["block", "slow"]
    assert sorted(log.asked[2:]) == ["block", "slow"]
    assert [isinstance(o[0], RewardFault) and o[0].kind for o in (bad, slow)] == ["deadline", "deadline"]


def test_calls_that_were_cancelled_beside_one_that_blocks_fail_no_other() -> None:
    """Four calls in a stuck worker, three of them cancelled; then a call of another group."""

    async def run() -> list[Outcome]:
        log = Log()
        pool = await started(log, concurrency=8, num_spare=1)
        hanging = [asked(pool, "block") for _ in range(4)]
        await asyncio.sleep(0.3)
        for task in hanging[:3]:
            task.cancel()
        async with asyncio.timeout(20):
            got = await asked(pool, "good")
            # and no place in a worker is lost for good
            hanging[3].cancel()
            await asyncio.gather(*(asked(pool, "good") for _ in range(20)))
        pool.close()
        return got

    assert isinstance(asyncio.run(run())[0], RewardResult)


def test_of_workers_that_open_together_none_stays_when_one_fails() -> None:
    async def opening(number: int) -> None:
        await asyncio.sleep(0.05 * number)
        if number not in {1, 3}:
            raise HostLostError("no room")

    async def run() -> Log:
        log = Log(opening)
        with pytest.raises(HostLostError, match="no room"):
            await started(log, size=3)
        return log

    log = asyncio.run(run())
    # the second is tried three times
    assert (log.num_made, len(log.ended)) == (5, 5)


def test_a_worker_that_is_lost_while_it_starts_is_replaced() -> None:
    async def opening(number: int) -> None:
        if number == 2:
            raise HostLostError("its node is gone")

    async def run() -> tuple[Log, list[Outcome]]:
        log = Log(opening)
        pool = await started(log, size=2, num_spare=0)
        outcomes = await asked(pool, "slow", "slow")
        pool.close()
        return log, outcomes

    log, outcomes = asyncio.run(run())
    assert {result.value for result in outcomes if isinstance(result, RewardResult)} == {1.0, 3.0}
    assert (log.num_made, len(log.ended)) == (3, 3)


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


def test_who_waited_to_be_alone_and_was_cancelled_keeps_no_host() -> None:
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


def test_whatever_a_host_raises_is_a_fault_of_the_group() -> None:
    async def run() -> list[Outcome]:
        pool = await started(Log())
        got = await asked(pool, "raise")
        pool.close()
        return got

    (fault,) = asyncio.run(run())
    assert isinstance(fault, RewardFault)
    assert fault.detail.endswith("OSError: a wire is cut")


def test_a_host_that_does_not_come_up_fails_one_call_that_waits_for_it() -> None:
    async def opening(number: int) -> None:
        await asyncio.sleep(0)
        if number == 2:
            raise HostLostError("no room")

    async def run() -> list[list[Outcome]]:
        pool = await started(Log(opening))
        async with asyncio.timeout(20):
            got = await asyncio.gather(*(asked(pool, text) for text in ("die", "good", "good")))
        pool.close()
        return got

    got = asyncio.run(run())
    # the call whose worker died was to be asked again, alone
    assert [o[0].detail for o in got if isinstance(o[0], RewardFault)] == ["no room"]
    assert sum(isinstance(outcomes[0], RewardResult) for outcomes in got) == 2
