"""What a process of a reward does: loads it, answers, and ends with who started it.

    python -P -m reward.worker SOCKET TRACE     both are file descriptors

A crash of the user's code is this process's alone. Frames are a length and a body: pickles of requests come in,
JSON of outcomes goes out; the user's prints go where errors go.
"""

import asyncio
import contextlib
import ctypes
import faulthandler
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import ConfigError
from reward.outcome import Outcome, RewardFault
from reward.plugins import Plugin, PluginSpec, check_plugin, load_plugin
from reward.request import RewardRequest, RewardResult

HEADER = struct.Struct(">Q")
PR_SET_PDEATHSIG = 1
STACK_SIGNAL = signal.SIGUSR1
"""Asks for the stack of every thread, whatever holds the interpreter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOrder:
    """The first frame."""

    plugin: PluginSpec
    parent_pid: int
    max_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerAsk:
    """Every other frame: one request, or a group's; none asks whether the process answers."""

    number: int
    requests: tuple[RewardRequest, ...] = ()
    is_given_up: bool = False
    """Whether the call of this number is to end without an answer; of async code."""


def main(socket_fd: int, trace_fd: int) -> int:
    """Serves until the socket is closed."""
    # prints of the user's must not come between
    os.dup2(2, 1)
    faulthandler.enable(trace_fd, all_threads=False)
    faulthandler.register(STACK_SIGNAL, trace_fd, all_threads=True)
    connection = socket.socket(fileno=socket_fd)
    order: WorkerOrder = pickle.loads(read_frame(connection))
    end_with(order.parent_pid)
    _limit(order.max_memory_bytes)
    try:
        plugin = load_plugin(order.plugin)
    except ConfigError as error:
        _send(connection, {"refused": str(error)})
        return 2
    _send(
        connection, {"decision": plugin.decision, "takes_groups": plugin.takes_groups, "is_async": plugin.is_async}
    )
    with contextlib.suppress(EOFError, ConnectionError):
        if plugin.is_async:
            asyncio.run(_serve_async(plugin, connection))
        else:
            _serve(plugin, connection)
    return 0


def _serve(plugin: Plugin, connection: socket.socket) -> None:
    while True:
        ask: WorkerAsk = pickle.loads(read_frame(connection))
        outcomes = plugin.ask(ask.requests)
        # what has filled this process up would fill it up again
        is_last = any(isinstance(o, RewardFault) and o.detail.endswith("MemoryError") for o in outcomes)
        _send(connection, {"number": ask.number, "outcomes": [as_json(o) for o in outcomes], "is_last": is_last})
        if is_last:
            return


async def _serve_async(plugin: Plugin, connection: socket.socket) -> None:
    connection.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    running: dict[int, asyncio.Task[None]] = {}

    async def answer(ask: WorkerAsk) -> None:
        outcomes = await plugin.ask_async(ask.requests) if ask.requests else []
        told = {"number": ask.number, "outcomes": [as_json(o) for o in outcomes]}
        writer.write(framed(json.dumps(told).encode()))

    while True:
        try:
            (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            ask: WorkerAsk = pickle.loads(await reader.readexactly(length))
        except asyncio.IncompleteReadError:
            return
        if ask.is_given_up:
            if ask.number in running:
                running[ask.number].cancel()
            continue
        task = running[ask.number] = asyncio.create_task(answer(ask))
        task.add_done_callback(lambda _, number=ask.number: running.pop(number))


def read_frame(connection: socket.socket) -> bytes:
    """The next frame's body.

    Raises:
        EOFError: the other side has closed.
    """
    (length,) = HEADER.unpack(_read(connection, HEADER.size))
    return _read(connection, length)


def _read(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(length - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def framed(body: bytes) -> bytes:
    """A frame."""
    return HEADER.pack(len(body)) + body


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome for a process that trusts nothing but its form."""
    return asdict(outcome)


def of_json(value: dict[str, Any]) -> Outcome:
    """The outcome again."""
    return RewardFault(**value) if "kind" in value else RewardResult(**value)


def _send(connection: socket.socket, value: dict[str, Any]) -> None:
    connection.sendall(framed(json.dumps(value).encode()))


def end_with(parent_pid: int) -> None:
    """Has the kernel end this process when the thread that started it ends, which lives as long as its process.

    Nothing in this process could: code in C may hold the interpreter.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def _limit(max_memory_bytes: int | None) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            # where the machine runs out of memory all the same, this is what may go
            file.write("1000")
    if max_memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = max_memory_bytes if hard == resource.RLIM_INFINITY else min(max_memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def check() -> int:
    """Reads plugins' specifications, prints what is wrong with the first that cannot be."""
    specs: list[PluginSpec] = pickle.load(sys.stdin.buffer)
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        said = ""
        for spec in specs:
            try:
                check_plugin(spec)
            except ConfigError as error:
                said = str(error)
                break
        answer.write("\n" + json.dumps(said))
    return 0


def run(arguments: Sequence[str]) -> int:
    """The command."""
    if list(arguments) == ["check"]:
        return check()
    return main(int(arguments[0]), int(arguments[1]))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
