"""The owner's side of a worker process."""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from reward.hosts.reward_host import START_S, HostLostError, RewardHost
from reward.hosts.worker import STACK_SIGNAL, is_stopped
from reward.outcome import MAX_DETAIL, Outcome, RewardFault
from reward.plugins.plugin import PluginSpec
from reward.request import RewardRequest, RewardResult

TICK_S, NUM_TICKS = 0.05, 20
"""Interval and number of checks for the end of a process or for its stacks."""
MAX_LINE_BYTES = 64 * 2**20


class ProcessHost(RewardHost):
    """A process that runs a reward. It leads a process group, which ends with it and with this process."""

    is_owned = True

    def __init__(self, plugin: PluginSpec, *, max_memory_bytes: int | None, max_concurrency: int = 1) -> None:
        self._order, self._max_concurrency = (plugin, max_memory_bytes), max_concurrency
        self._answers: dict[int, asyncio.Future[list[Outcome]]] = {}
        self._num_asked = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None

    async def open(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._spawn(), limit=MAX_LINE_BYTES)
        self._write(self._order)
        try:
            hello = await asyncio.wait_for(_message(reader), START_S)
        except TimeoutError as error:
            raise HostLostError(f"its process did not start within {START_S:g} s") from error
        if hello is None:
            raise HostLostError(await self._exit_reason("while it loaded the reward"))
        self.greet(hello, max_concurrency=self._max_concurrency)
        self._listener = asyncio.create_task(self._listen(reader))

    def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._trace = os.memfd_create("omni-rlvr-stacks")
        fds = (theirs.fileno(), lifeline, self._trace)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "reward.hosts.worker", *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=worker_environment(),
        )
        theirs.close()
        os.close(lifeline)
        ours.setblocking(False)
        return ours

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        number, self._num_asked = self._num_asked, self._num_asked + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._write((number, tuple(requests), None))
            return await answer
        except asyncio.CancelledError:
            if self.concurrency > 1 and not self.is_lost:
                self._write((-1, (), number))
            raise
        finally:
            del self._answers[number]

    async def is_stopped(self) -> bool:
        return self._process is not None and is_stopped(self._process.pid)

    async def stacks(self) -> str:
        if self._process is not None:
            self._process.send_signal(STACK_SIGNAL)
        for _ in range(NUM_TICKS):
            await asyncio.sleep(TICK_S)
            if stacks := self._traced():
                return stacks
        return ""

    def end(self) -> None:
        self._lose("its process was ended because of another call")
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if not sys.is_finalizing():  # no thread would start any more, and its start would be waited for
            threading.Thread(target=process.wait, daemon=True).start()
        os.close(self._lifeline)
        os.close(self._trace)
        if self._listener is not None:
            self._listener.cancel()
        if self._writer is not None:
            self._writer.close()

    def _lose(self, why: str) -> None:
        self.is_lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(HostLostError(why))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (message := await _message(reader)) is not None:
            self.is_lost |= message["is_last"]  # no call may reach a process that is about to end
            answer = self._answers.get(message["number"])
            if answer is not None and not answer.done():
                answer.set_result([_outcome(outcome) for outcome in message["outcomes"]])
        self.is_lost = True
        self._lose(await self._exit_reason("during the call"))

    async def _exit_reason(self, when: str) -> str:
        code = None
        for _ in range(NUM_TICKS):
            if self._process is None or (code := self._process.poll()) is not None:
                break
            await asyncio.sleep(TICK_S)
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        stack = self._traced()
        return f"its process {how} {when}" + (f"\n{stack}" if stack else "")

    def _traced(self) -> str:
        if self._process is None:
            return ""
        return os.pread(self._trace, 2**20, 0).decode(errors="replace").strip()[-MAX_DETAIL:]

    def _write(self, message: Any) -> None:
        if self._writer is None or self.is_lost:
            raise HostLostError("its process is gone")
        self._writer.write(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


async def _message(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None if the connection is closed or a line is incomplete."""
    try:
        return json.loads(await reader.readline())
    except (ConnectionError, ValueError):
        return None


def _outcome(message: dict[str, Any]) -> Outcome:
    return RewardFault(**message) if "kind" in message else RewardResult(**message)


def worker_environment() -> dict[str, str]:
    """Environment of a process with the import path of this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
