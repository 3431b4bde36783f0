"""Asynchronous work that all callers of one key share."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class SharedWork(Generic[K, T]):
    """Results by key: the first caller starts the work, later callers wait for it or get its result.

    Failed work raises for all who wait for it, and is done again for the next caller. A cancelled caller does not
    end the work.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    async def once(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())

            def drop_failure(done: asyncio.Task[T]) -> None:
                if not _has_result(done) and self._tasks.get(key) is done:
                    del self._tasks[key]

            task.add_done_callback(drop_failure)
        return await asyncio.shield(task)

    def results(self) -> dict[K, T]:
        """Results of the work that is done."""
        return {key: task.result() for key, task in self._tasks.items() if _has_result(task)}

    def drop(self, key: K, result: T) -> bool:
        """Forgets a result; returns False if it is not there or another has taken its place."""
        task = self._tasks.get(key)
        if task is None or not _has_result(task) or task.result() is not result:
            return False
        del self._tasks[key]
        return True

    def keep(self, is_kept: Callable[[K], bool]) -> None:
        """Forgets all other work; who waits for it gets its result."""
        self._tasks = {key: task for key, task in self._tasks.items() if is_kept(key)}


def _has_result(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
