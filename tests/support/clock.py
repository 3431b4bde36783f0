"""An event loop whose clock jumps to the next timer when nothing else is left to do.

A deadline of minutes passes at once when everybody hangs, and never while anybody works, however busy the
machine is.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """Never waits: says how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now."""
        assert timeout is not None, "nothing is left that could wake this loop"
        self.waited_s += max(0.0, timeout)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its time is the time it would have waited."""

    def __init__(self) -> None:
        self._waiting = JumpingSelector()
        super().__init__(self._waiting)

    def time(self) -> float:
        """In seconds, from 0."""
        return self._waiting.waited_s

    def jump(self, seconds: float) -> None:
        """Time passes in which the loop does not run, as in a process that is stopped."""
        self._waiting.waited_s += seconds


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on such a loop."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)
