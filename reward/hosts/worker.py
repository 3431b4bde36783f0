"""A process that runs one user reward: loads it, answers calls, and ends with its owner.

    python -P -m reward.hosts.worker SOCKET LIFELINE TRACE     all are file descriptors

The socket carries pickles: first a `PluginSpec` and the memory limit in bytes or None, then calls `(number,
requests, cancels)`. A call without requests is answered at once, which shows that the process is not stuck;
`cancels` is the number of an earlier call to cancel, or None. Outcomes return as lines of JSON; the output of user
code goes to stderr.
"""

import asyncio
import contextlib
import faulthandler
import json
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from reward.outcome import Outcome, RewardFault
from reward.plugins.loading import load_plugin
from reward.plugins.plugin import Plugin, PluginSpec

STACK_SIGNAL = signal.SIGUSR1
"""Writes the stacks of all threads, even while C code holds the interpreter."""
GUARD = ("/bin/sh", "-c", "trap '' HUP INT TERM; read _; kill -KILL 0")
"""Kills its process group once the pipe at its stdin has no writer left."""


def lead_group(lifeline_fd: int) -> None:
    """Makes this process lead a process group that is killed when the other end of the lifeline closes."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    # a thread could not act while C code holds the interpreter
    subprocess.Popen(GUARD, stdin=lifeline_fd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def is_stopped(pid: int) -> bool:
    """True if a signal or a debugger has stopped a process of this machine."""
    try:
        # the name, which is in brackets, may hold anything
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def load(spec: PluginSpec) -> tuple[Plugin | None, dict[str, Any]]:
    """Loads a reward; also returns its calling convention, or the reason why it cannot be loaded."""
    try:
        plugin = load_plugin(spec)
    except ConfigError as error:
        return None, {"refused": str(error)}
    return plugin, {"decision": plugin.decision, "takes_groups": plugin.takes_groups, "is_async": plugin.is_async}


def main(socket_fd: int, lifeline_fd: int, trace_fd: int) -> int:
    os.dup2(2, 1)
    lead_group(lifeline_fd)
    faulthandler.enable(trace_fd, all_threads=False)
    faulthandler.register(STACK_SIGNAL, trace_fd, all_threads=True)
    stream = socket.socket(fileno=socket_fd).makefile("rwb")
    # a child that the user's code forks would keep the connection open
    os.register_at_fork(after_in_child=lambda: os.close(socket_fd))
    spec, max_memory_bytes = pickle.load(stream)
    _limit(max_memory_bytes)
    plugin, hello = load(spec)
    _send(stream, hello)
    with contextlib.suppress(EOFError, ConnectionError):
        if plugin is not None and plugin.is_async:
            asyncio.run(_serve_async(plugin, stream))
        elif plugin is not None:
            _serve(plugin, stream)
    return 0


def _serve(plugin: Plugin, stream: BufferedRWPair) -> None:
    while True:
        number, requests, _ = pickle.load(stream)
        outcomes = plugin.ask(requests)
        # memory that filled up once would fill up again
        is_full = any(isinstance(o, RewardFault) and o.detail.endswith("MemoryError") for o in outcomes)
        _answer(stream, number, outcomes, is_last=is_full)
        if is_full:
            return


async def _serve_async(plugin: Plugin, stream: BufferedRWPair) -> None:
    running: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, requests: Sequence[Any]) -> None:
        _answer(stream, number, await plugin.ask_async(requests) if requests else [])

    while True:
        number, requests, cancels = await asyncio.to_thread(pickle.load, stream)
        if cancels in running:
            running[cancels].cancel()
        task = running[number] = asyncio.create_task(answer(number, requests))
        task.add_done_callback(lambda _, number=number: running.pop(number))


def _answer(stream: BufferedRWPair, number: int, outcomes: Sequence[Outcome], *, is_last: bool = False) -> None:
    _send(stream, {"number": number, "outcomes": list(map(asdict, outcomes)), "is_last": is_last})


def _send(stream: BufferedRWPair, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _limit(max_memory_bytes: int | None) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if the machine still runs out of memory, the kernel ends this process first
    if max_memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = max_memory_bytes if hard == resource.RLIM_INFINITY else min(max_memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
