"""Actors of the tests of node agents; their processes import little and start fast."""

import os
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import ray

from common.node_agent_actor import NodeAgent

CHILD = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
time.sleep(600)
"""


class CountedAgent(NodeAgent):
    """An agent that records its copies in a file."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def _record(self, event: str) -> None:
        with self._log.open("a") as file:
            file.write(f"{event}\n")

    @ray.method(concurrency_group="copies")
    def put_bucket(self, path: str) -> Any:
        """Counted when it succeeds."""
        put = super().put_bucket(path)
        self._record("put")
        return put

    @ray.method(concurrency_group="copies")
    def get_bucket(self, *args: Any) -> Any:
        """Counted by its outcome."""
        copy = super().get_bucket(*args)
        self._record("lost" if copy is None else "get")
        return copy


class HoldingActor:
    """An actor with two child processes and a file of `multiprocessing`, which all three hold."""

    def __init__(self) -> None:
        self._memory = SharedMemory(create=True, size=2**20)
        self.path = f"/dev/shm/{self._memory.name.lstrip('/')}"
        self._children = [
            subprocess.Popen([sys.executable, "-S", "-c", CHILD, self.path], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        for child in self._children:
            assert child.stdout is not None
            child.stdout.readline()

    def state(self) -> tuple[list[int], Path]:
        """Its processes and its file."""
        return [os.getpid(), *(child.pid for child in self._children)], Path(self.path)
