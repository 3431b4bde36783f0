"""The way to one worker of a reward: a process, a Ray actor, a service, or coroutines of this event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from common.errors import ConfigError, RewardError
from reward.outcome import Outcome, checked
from reward.request import RewardRequest

START_S = 600.0
"""Seconds in which a worker must be up, models that it loads included."""
ANSWER_S = 2.0
"""Seconds in which a worker of async code answers unless it is stuck."""


class HostLostError(RewardError):
    """The worker is gone or cannot be reached; another may answer."""


class RewardHost:
    """One worker. Beside `HostLostError`, `open` may raise `ConfigError`: the reward cannot be loaded."""

    takes_groups = False
    """True if one call is for a whole group."""
    concurrency = 1
    """Calls at a time."""
    decision = ""
    """The calling convention of the reward, for people; may be empty."""
    is_owned = False
    """True if this process ends the worker. Such a worker answers an empty call at once unless it is stuck."""
    is_lost = False

    async def open(self) -> None:
        """Returns when the worker is ready."""

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One outcome per request; cancelled if the caller gives up. Raises `HostLostError`."""
        raise NotImplementedError

    async def can_go_on(self) -> bool:
        """True if the worker still serves other calls after one was cancelled."""
        if not self.is_owned:
            return True
        if self.concurrency == 1 or self.is_lost:
            return False  # code that is not async is still at the call
        try:
            return await asyncio.wait_for(self.ask(()), ANSWER_S) == []
        except (TimeoutError, HostLostError):
            return False

    async def is_stopped(self) -> bool:
        """True if the worker is stopped by a signal, or its machine does not answer: no fault of the code in it."""
        return False

    async def stacks(self) -> str:
        """Python stacks of the worker; empty if unavailable."""
        return ""

    def end(self) -> None:
        """Ends the worker; may be repeated."""
        self.is_lost = True

    def greet(self, hello: dict[str, Any], *, max_concurrency: int) -> None:
        """Stores the result of a worker's `load`."""
        if "refused" in hello:
            raise ConfigError(hello["refused"])
        self.decision, self.takes_groups = hello["decision"], hello["takes_groups"]
        self.concurrency = max_concurrency if hello["is_async"] else 1


class FunctionHost(RewardHost):
    """An async function of this event loop, called for one completion at a time."""

    def __init__(self, call: Callable[[RewardRequest], Awaitable[object]], *, concurrency: int) -> None:
        self._call, self.concurrency = call, concurrency

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        return [checked(await self._call(request)) for request in requests]
