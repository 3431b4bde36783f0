"""Both ends of a remote call: arguments and results pass unchanged, under the Protocol's names."""

import asyncio
import inspect
from typing import Any, Protocol

from common.runtime.remote_calls import forwarded, forwarded_async, remote


class Adder(Protocol):
    """A Protocol of one method."""

    async def add(self, number: int, *, times: int = 1) -> int: ...


class Client:
    """Notes what is called."""

    add = remote(Adder.add)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((method, args, kwargs))
        return 7


class Inner:
    """The object that does the work."""

    def __init__(self) -> None:
        self.inner = self

    def add(self, number: int, *, times: int = 1) -> int:
        return number * times

    async def add_later(self, number: int) -> int:
        return number + 1


class Shell:
    """An actor's class."""

    add = forwarded("_work.inner.add")
    add_later = forwarded_async("_work.add_later")

    def __init__(self) -> None:
        self._work = Inner()


def test_a_client_passes_the_method_s_name_and_arguments() -> None:
    client = Client()
    assert asyncio.run(client.add(1, times=2)) == 7
    assert client.calls == [("add", (1,), {"times": 2})]


def test_a_client_s_method_has_the_protocol_s_signature() -> None:
    assert inspect.signature(Client.add) == inspect.signature(Adder.add)


def test_an_actor_passes_calls_on() -> None:
    shell = Shell()
    assert shell.add(2, times=3) == 6
    assert asyncio.run(shell.add_later(2)) == 3


def test_ray_sees_which_of_an_actor_s_methods_are_async() -> None:
    assert inspect.iscoroutinefunction(Shell.add_later)
    assert not inspect.iscoroutinefunction(Shell.add)
