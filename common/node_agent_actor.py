"""A Ray actor per node, without CPUs, which acts on that node's processes and shared memory for the driver.

It kills the processes of a lost engine, removes the files that they held, and copies buckets of weights from the
node of the ranks to a node of engines, once for all engines there. The driver uses it through `NodeAgents`.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.errors import EngineError, last_line
from common.runtime.engine_processes import Reaped, held_segments, processes_of, reap
from common.runtime.shared_work import SharedWork
from common.shared_memory import Segment, local_segment, segment_path, sweep_segments

Turn = tuple[int, int]
"""Transfer and bucket."""
CopyKey = tuple[Turn, str, str]
"""Turn, path and node of the source."""
COPY_GROUPS = {"copies": 2}
"""Ray's groups of an agent's calls: processes are killed while buckets are copied."""
START_S = 120.0
"""Seconds in which an agent must be up."""
INNER_SHARE = 0.8
"""Share of a call's deadline after which a living agent reports the deadline itself."""
MAX_LOSSES = 3
"""Times that a bucket may be lost with the agent that has put it."""


def agent_options(node: str) -> dict[str, Any]:
    """Ray's options of the agent of a node; every call may be repeated, so Ray repeats those that a death ended."""
    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    return {
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": 4,
        "scheduling_strategy": affinity,
    }


class NodeAgent:
    """The actor; its calls run in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: dict[int, Segment] = {}
        self._newest: Turn = (0, 0)
        # those of an agent that was killed, among others
        sweep_segments()

    def pid(self) -> int:
        return os.getpid()

    def processes(self, token: str) -> list[int]:
        return processes_of(token)

    def held(self, token: str) -> list[Path]:
        return held_segments(processes_of(token))

    def reap(self, token: str, segments: list[Path], deadline_s: float) -> Reaped:
        """`engine_processes.reap`, and a sweep of the node's unlocked segments."""
        reaped = reap(token, segments, deadline_s=deadline_s)
        sweep_segments()
        return reaped

    @ray.method(concurrency_group="copies")
    def put_bucket(self, path: str) -> tuple[list[Any], int]:
        """Puts the bucket that lies in a segment of this node into Ray's object store.

        Returns:
            The reference, in a list so that Ray does not resolve it, and the size of the segment in bytes.
        """
        segment = Segment(local_segment(path))
        try:
            # mapped, not read: Ray makes the only copy
            used = np.memmap(path, np.uint8, "r")[: segment.num_used_bytes]
            return [ray.put(np.asarray(used))], segment.num_bytes
        finally:
            segment.close()

    @ray.method(concurrency_group="copies")
    def get_bucket(self, reference: list[Any], num_bytes: int, turn: Turn, deadline_s: float) -> str | None:
        """Writes a bucket to one of two segments of `num_bytes` on this node, which alternate.

        Returns:
            The segment's path; None if the object was lost with the agent that has put it.

        Raises:
            EngineError: a later bucket has taken its place.
        """
        try:
            data = cast(np.ndarray, ray.get(reference[0], timeout=deadline_s))
        except ObjectLostError:
            return None
        # a call that was overtaken must not write over the bucket that the engines read
        with self._lock:
            _require_recent(turn, self._newest)
            self._newest = max(self._newest, turn)
            segment = self._slot(turn[1] % 2, num_bytes)
            segment.fill(data)
            return str(segment.path)

    def close(self) -> None:
        """Removes the copies."""
        with self._lock:
            while self._copies:
                self._copies.popitem()[1].close(unlink=True)

    def _slot(self, slot: int, num_bytes: int) -> Segment:
        segment = self._copies.get(slot)
        if segment is not None and segment.num_bytes < num_bytes:
            self._copies.pop(slot).close(unlink=True)
            segment = None
        if segment is None:
            segment = self._copies[slot] = Segment(segment_path("agent", slot), num_bytes=num_bytes)
        return segment


def _require_recent(turn: Turn, newest: Turn) -> None:
    """Raises `EngineError` for a bucket of an older transfer, or one whose segment a later bucket has taken."""
    if turn < (newest[0], newest[1] - 1):
        raise EngineError(
            f"a bucket must be one of the last two of a transfer, got bucket {turn[1]} of transfer {turn[0]} after "
            f"bucket {newest[1]} of transfer {newest[0]}; it may have been overwritten"
        )


class NodeAgents:
    """The agents of a run's nodes, made when they are needed. Every call has a deadline.

    Raises:
        EngineError: names the node; it is gone, its agent did not answer in time, or the call failed there.
    """

    def __init__(self, make: Callable[[str], Any], *, deadline_s: float = 30.0) -> None:
        """`make` constructs the actor of a node, with `COPY_GROUPS` and `agent_options`."""
        self._make = make
        self._deadline_s = deadline_s
        self._inner_s = deadline_s * INNER_SHARE
        self._agents = SharedWork[str, Any]()
        self._puts = SharedWork[CopyKey, tuple[list[Any], int]]()
        self._copies = SharedWork[tuple[CopyKey, str], str]()
        self._newest: Turn = (0, 0)
        self._held: dict[str, set[Path]] = {}

    async def processes(self, token: str, *, node: str) -> list[int]:
        """Processes on a node that carry the token of an engine."""
        return await self._call(node, "processes", token)

    async def held(self, token: str, *, node: str) -> list[Path]:
        """Files in shared memory that an engine's processes hold now; `reap` remembers them."""
        held: list[Path] = await self._call(node, "held", token)
        self._held.setdefault(token, set()).update(held)
        return held

    async def reap(self, token: str, *, node: str, segments: Iterable[Path] = ()) -> Reaped:
        """Kills an engine's processes, and removes the files that they hold or held at an earlier `held`."""
        known = sorted({*segments, *self._held.get(token, ())})
        reaped: Reaped = await self._call(node, "reap", token, known, self._inner_s)
        self._held.pop(token, None)
        return reaped

    async def local_path(self, path: str, bucket: int, *, node: str, source_node: str) -> str:
        """The path of a bucket on a node; the first call for a node in a transfer copies the bucket there.

        The source must hold the bucket until the last call for it has returned. The copy stays until the bucket
        after the next one is asked for.
        """
        if node == source_node:
            return path
        turn = (self._newest[0], bucket)
        _require_recent(turn, self._newest)
        if turn > self._newest:
            self._newest = turn
            oldest = (turn[0], bucket - 1)
            self._puts.keep(lambda key: key[0] >= oldest)
            self._copies.keep(lambda key: key[0][0] >= oldest)
        source = (turn, path, source_node)
        return await self._copies.once((source, node), lambda: self._copy(source, node))

    def forget(self) -> None:
        """Starts a new transfer, in which every bucket is copied again."""
        self._newest = (self._newest[0] + 1, 0)
        self._puts.keep(lambda key: False)
        self._copies.keep(lambda key: False)

    async def close(self) -> None:
        """Ends the agents, and removes their copies."""
        self.forget()
        for handle in self._agents.results().values():
            with contextlib.suppress(TimeoutError, RayError):
                async with asyncio.timeout(self._deadline_s):
                    await handle.close.remote()
            ray.kill(handle)
        self._agents.keep(lambda node: False)

    async def _copy(self, source: CopyKey, node: str) -> str:
        turn, path, source_node = source
        for _ in range(MAX_LOSSES):
            put = await self._puts.once(source, lambda: self._call(source_node, "put_bucket", path))
            copy = await self._call(node, "get_bucket", *put, turn, self._inner_s)
            if copy is not None:
                return copy
            self._puts.drop(source, put)
        raise EngineError(
            f"bucket {turn[1]} must reach node {node[:8]}, and was lost {MAX_LOSSES} times with the agent of node "
            f"{source_node[:8]}; see that node's logs of Ray"
        )

    async def _call(self, node: str, method: str, *args: Any) -> Any:
        who = f"the agent of node {node[:8]}"
        for is_last in (False, True):
            handle = await self._agents.once(node, lambda: self._start(node))
            try:
                async with asyncio.timeout(self._deadline_s):
                    return await getattr(handle, method).remote(*args)
            except TimeoutError as error:
                self._give_up(node, handle)
                raise EngineError(
                    f"{who}: {method} must end within {self._deadline_s:g} s, and did not; the next call makes "
                    "another agent"
                ) from error
            except RayTaskError as error:
                raise EngineError(f"{who}: {method}: {last_line(cast(BaseException, error.cause))}") from None
            except RayError as error:
                # a death that Ray does not repair, such as the node's
                self._give_up(node, handle)
                if is_last:
                    raise EngineError(f"{who}: {method}: {last_line(error)}") from error
        raise AssertionError("unreachable")

    async def _start(self, node: str) -> Any:
        handle = self._make(node)
        try:
            async with asyncio.timeout(START_S):
                await handle.pid.remote()
        except (TimeoutError, RayError) as error:
            ray.kill(handle)
            raise EngineError(
                f"the agent of node {node[:8]} must be up within {START_S:g} s, and was not: {last_line(error)}"
            ) from error
        return handle

    def _give_up(self, node: str, handle: Any) -> None:
        if self._agents.drop(node, handle):
            ray.kill(handle)
