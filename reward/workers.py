"""A reward of the user's in a process of its own: the side of who asks."""

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from common.config.reward import PythonRewardConfig, UserCodeConfig
from common.errors import ConfigError
from reward.channel import ChannelEndedError, ChannelLostError
from reward.outcome import MAX_DETAIL, Outcome
from reward.plugins import PluginSpec
from reward.pool import PooledReward
from reward.request import RewardRequest
from reward.worker import HEADER, STACK_SIGNAL, WorkerAsk, WorkerOrder, framed, of_json

logger = logging.getLogger(__name__)
START_S = 600.0
"""Seconds that a process may take until it can be asked, models that it loads included."""
STACK_S = 0.2
"""Seconds in which a stack is written."""
ANSWER_S = 2.0
"""Seconds in which a process of async code answers that is not stuck."""
MAX_FRAME_BYTES = 64 * 2**20
GIB = 2**30


class WorkerProcess:
    """A `Channel` to one process."""

    def __init__(self, plugin: PluginSpec, *, max_memory_bytes: int | None, max_concurrency: int = 1) -> None:
        self.takes_groups, self.concurrency, self.decision = False, 1, ""
        self._plugin, self._max_memory_bytes, self._max_concurrency = plugin, max_memory_bytes, max_concurrency
        self._process: subprocess.Popen[bytes] | None = None
        self._trace_fd = -1
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[list[Outcome]]] = {}
        self._num_asked = 0
        self._is_lost = False

    @property
    def is_lost(self) -> bool:
        """Whether the process is gone, or is to go."""
        return self._is_lost

    async def open(self) -> None:
        """Starts the process and has it load the reward.

        Raises:
            ConfigError: the reward cannot be loaded.
            ChannelLostError: it ended or took too long.
        """
        own = self._spawn()
        own.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=own, limit=MAX_FRAME_BYTES)
        order = WorkerOrder(plugin=self._plugin, parent_pid=os.getpid(), max_memory_bytes=self._max_memory_bytes)
        try:
            async with asyncio.timeout(START_S):
                self._write(order)
                hello = await _read_frame(reader)
        except TimeoutError as error:
            raise ChannelLostError(f"its process was not up within {START_S:g} s") from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChannelLostError(await self._obituary("while it loaded the reward")) from error
        if "refused" in hello:
            raise ConfigError(hello["refused"])
        self.decision, self.takes_groups = hello["decision"], hello["takes_groups"]
        self.concurrency = self._max_concurrency if hello["is_async"] else 1
        self._listener = asyncio.create_task(self._listen(reader))

    def _spawn(self) -> socket.socket:
        own, theirs = socket.socketpair()
        self._trace_fd = os.memfd_create("omni-rlvr-stacks")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "reward.worker", str(theirs.fileno()), str(self._trace_fd)],
                pass_fds=(theirs.fileno(), self._trace_fd),
                stdin=subprocess.DEVNULL,
                # its children end with it; Ctrl-C is its parent's matter
                start_new_session=True,
                env=_environment(),
            )
        return own

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call.

        Raises:
            ChannelLostError: the process ended over it.
        """
        number = self._num_asked
        self._num_asked += 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._write(WorkerAsk(number=number, requests=tuple(requests)))
            return await answer
        except asyncio.CancelledError:
            if self.concurrency > 1 and not self._is_lost:
                self._write(WorkerAsk(number=number, is_given_up=True))
            raise
        finally:
            self._answers.pop(number, None)

    async def where(self) -> str:
        """The stacks of its threads, whatever holds its interpreter."""
        if self._process is None or self._is_lost or self.concurrency > 1:
            return ""
        before = os.fstat(self._trace_fd).st_size
        self._signal(STACK_SIGNAL)
        await asyncio.sleep(STACK_S)
        return self._trace(before)

    async def abandon(self) -> bool:
        """Ends the process, unless its code is async and it still answers; whether calls shared it."""
        if self.concurrency > 1 and not self._is_lost:
            with contextlib.suppress(TimeoutError, ChannelLostError):
                async with asyncio.timeout(ANSWER_S):
                    await self.ask(())
                    return False
        self.end()
        return self.concurrency > 1

    def end(self) -> None:
        """Kills the process and what it has started."""
        if self._is_lost and self._process is None:
            return
        self._is_lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ChannelEndedError("its process was ended for another call's sake"))
        if self._listener is not None:
            self._listener.cancel()
        self._bury()

    def _bury(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None:
            self._signal(signal.SIGKILL)
            # it may take its time, where it waits for a disk
            threading.Thread(target=self._process.wait, daemon=True).start()
            self._process = None
        if self._trace_fd >= 0:
            os.close(self._trace_fd)
            self._trace_fd = -1

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                told = await _read_frame(reader)
                self._is_lost = self._is_lost or told.get("is_last", False)
                answer = self._answers.get(told["number"])
                if answer is not None and not answer.done():
                    answer.set_result([of_json(outcome) for outcome in told["outcomes"]])
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, KeyError, TypeError):
            self._is_lost = True
            why = await self._obituary("over it")
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ChannelLostError(why))
            self._bury()

    async def _obituary(self, when: str) -> str:
        """How the process ended, and where it was."""
        self._is_lost = True
        assert self._process is not None
        for _ in range(20):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.05)
        code = self._process.poll()
        if code is None:
            how = "its process closed its connection"
        elif code < 0:
            how = f"its process was ended by {signal.Signals(-code).name}"
        else:
            how = f"its process ended with exit code {code}"
        stack = self._trace(0)
        return f"{how} {when}" + (f"\n{stack}" if stack else "")

    def _trace(self, start: int) -> str:
        return os.pread(self._trace_fd, 2**20, start).decode(errors="replace").strip()[-MAX_DETAIL:]

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def _write(self, frame: WorkerOrder | WorkerAsk) -> None:
        if self._writer is None:
            raise ChannelLostError("its process is gone")
        self._writer.write(framed(pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)))


def _environment() -> dict[str, str]:
    """Whatever can be imported here can be there."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


async def _read_frame(reader: asyncio.StreamReader) -> dict[str, Any]:
    (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame must be <= {MAX_FRAME_BYTES} bytes, got {length}")
    return json.loads(await reader.readexactly(length))


def plugin_spec(entry: UserCodeConfig) -> PluginSpec:
    """What a configuration names."""
    return PluginSpec(
        name=entry.name,
        entrypoint=entry.entrypoint,
        style=entry.style,
        is_conversational=entry.conversational,
        options=entry.options,
    )


def in_processes(entry: UserCodeConfig, *, asks_all: bool = False) -> PooledReward:
    """A reward of the user's in processes of its own; those of a Ray actor too, where there is no Ray."""
    limit_gib = entry.max_memory_gib if isinstance(entry, PythonRewardConfig) else None

    def make() -> WorkerProcess:
        return WorkerProcess(
            plugin_spec(entry),
            max_memory_bytes=None if limit_gib is None else int(limit_gib * GIB),
            max_concurrency=entry.max_concurrency,
        )

    size = entry.num_workers if isinstance(entry, PythonRewardConfig) else 1
    return PooledReward(entry, make_channel=make, size=size, num_spare=size, asks_all=asks_all)


def check_in_process(specs: Sequence[PluginSpec]) -> None:
    """Checks in another process what can be known of rewards without making them: their modules may do anything.

    Raises:
        ConfigError: one cannot be imported or called.
    """
    if not specs:
        return
    done = subprocess.run(
        [sys.executable, "-P", "-m", "reward.worker", "check"],
        input=pickle.dumps(list(specs)),
        stdout=subprocess.PIPE,
        env=_environment(),
        check=False,
    )
    try:
        told = json.loads(done.stdout.decode().splitlines()[-1])
    except (ValueError, IndexError):
        names = ", ".join(repr(spec.entrypoint) for spec in specs)
        raise ConfigError(
            f"reward.rewards entrypoint must be importable, got exit code {done.returncode} over {names}; mend "
            "the module"
        ) from None
    if told:
        raise ConfigError(told)
