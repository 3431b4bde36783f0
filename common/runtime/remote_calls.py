"""The two ends of a remote call: a client's method that calls an actor, and an actor's method that forwards it."""

import functools
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def remote(method: F) -> F:
    """A client's method with the name and types of a Protocol's method; it forwards its arguments to `_call`."""

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._call(call.__name__, *args, **kwargs)

    return cast(F, call)


def forwarded(path: str) -> Any:
    """An actor's method that calls the method at a path below the actor, such as `_engine.score`."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return attrgetter(path)(self)(*args, **kwargs)

    return forward


def forwarded_async(path: str) -> Any:
    """`forwarded` for an async method: Ray awaits only coroutine functions."""

    async def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await attrgetter(path)(self)(*args, **kwargs)

    return forward
