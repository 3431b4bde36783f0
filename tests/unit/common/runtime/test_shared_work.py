"""Work that several callers share is done once, and its failure is never kept."""

import asyncio

import pytest

from common.runtime.shared_work import SharedWork


class Work:
    """Counts its runs; each waits until it is released."""

    def __init__(self) -> None:
        self.runs = 0
        self.error: Exception | None = None
        self.is_released = asyncio.Event()

    async def __call__(self) -> object:
        """A new object per run."""
        self.runs += 1
        await self.is_released.wait()
        if self.error is not None:
            raise self.error
        return object()


def test_callers_of_one_key_share_one_run() -> None:
    async def main() -> None:
        shared, work = SharedWork[str, object](), Work()
        callers = [asyncio.create_task(shared.once("a", work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.is_released.set()
        assert len({id(result) for result in await asyncio.gather(*callers)}) == 1
        await shared.once("a", work)
        assert work.runs == 1
        await shared.once("b", work)
        assert work.runs == 2

    asyncio.run(main())


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    async def main() -> None:
        shared, work = SharedWork[str, object](), Work()
        work.error = ValueError("full")
        work.is_released.set()
        errors = await asyncio.gather(*(shared.once("a", work) for _ in range(2)), return_exceptions=True)
        assert errors == [work.error, work.error]
        work.error = None
        await shared.once("a", work)
        assert work.runs == 2

    asyncio.run(main())


def test_a_cancelled_caller_leaves_the_work_to_the_others() -> None:
    async def main() -> None:
        shared, work = SharedWork[str, object](), Work()
        first, second = (asyncio.create_task(shared.once("a", work)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        work.is_released.set()
        await second
        assert work.runs == 1

    asyncio.run(main())


def test_only_the_current_result_is_dropped() -> None:
    async def main() -> None:
        shared, work = SharedWork[str, object](), Work()
        work.is_released.set()
        old = await shared.once("a", work)
        assert shared.drop("a", old)
        new = await shared.once("a", work)
        assert not shared.drop("a", old)
        assert shared.results() == {"a": new}
        await shared.once("b", work)
        shared.keep(lambda key: key == "b")
        assert list(shared.results()) == ["b"]

    asyncio.run(main())
