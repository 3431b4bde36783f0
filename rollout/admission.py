"""The queue in front of vLLM: requests enter in order, as long as their sequences have room.

vLLM serves in order of arrival, so a probe would wait behind all that was submitted before it. A short queue inside
vLLM also lets a request start soon after its submission, at the version that it was submitted with.

Consumes requests. Each step of vLLM, each submission and each abort wakes the queue; nothing polls.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rollout.engine_stats import Step

NUM_PROBE_PLACES = 2
"""Sequences of `rollout.max_num_seqs` that stay free for probes."""
WAITING_DEADLINES = 2.0
"""Deadlines of a request that it may wait for admission. The pool hands an engine at most twice
`rollout.max_num_seqs` sequences, so two batches at most are served before the last of them."""
CALM_KV_USE = 0.9
"""Use of the key-value cache from which a step is not calm."""
CALM_STEPS = 64
"""Calm steps that raise a lowered limit by one sequence."""


@dataclass(kw_only=True, eq=False, slots=True)
class _Request:
    num_sequences: int
    is_admitted: bool = False
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """First come, first served, up to a limit of sequences that follows vLLM's memory."""

    def __init__(self, *, max_sequences: int, min_sequences: int, count: Callable[[], int]) -> None:
        """Stores its arguments.

        Args:
            max_sequences: the limit while vLLM preempts nothing.
            min_sequences: the lowest limit, one group.
            count: the number of sequences in vLLM, running or waiting.
        """
        self._max = max(1, max_sequences)
        self._min = min(min_sequences, self._max)
        self.limit = self._max
        self._count = count
        self._queue: deque[_Request] = deque()
        self._num_entering = 0
        """Admitted sequences that vLLM may not count yet."""
        self._num_calm = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for admission."""
        return sum(request.num_sequences for request in self._queue)

    @contextmanager
    def queued(self, num_sequences: int) -> Generator[asyncio.Future[None]]:
        """A place in the queue. The future is done at the admission; the block ends once vLLM counts the sequences,
        or to leave the queue.
        """
        request = _Request(num_sequences=num_sequences)
        self._queue.append(request)
        self.wake()
        try:
            yield request.admitted
        finally:
            if request.is_admitted:
                self._num_entering -= num_sequences
            else:
                self._queue.remove(request)
            self.wake()

    def step(self, step: Step) -> None:
        """Adapts the limit after a step of vLLM, and admits what fits."""
        if step.num_preempted:
            # the cache held no more sequences than these
            self.limit = max(self._min, min(self.limit, step.num_running - 1))
            self._num_calm = 0
        elif step.kv_use < CALM_KV_USE:
            self._num_calm += 1
            if self._num_calm == CALM_STEPS:
                self._num_calm = 0
                self.limit = min(self._max, self.limit + 1)
        self.wake()

    def wake(self) -> None:
        """Admits the requests at the front that fit."""
        while self._queue and self._fits(self._queue[0].num_sequences):
            request = self._queue.popleft()
            request.is_admitted = True
            self._num_entering += request.num_sequences
            # a caller that was cancelled leaves as soon as it runs
            if not request.admitted.done():
                request.admitted.set_result(None)

    def _fits(self, num_sequences: int) -> bool:
        num_present = self._count() + self._num_entering
        # a group above the limit is served alone: otherwise it would never be
        return num_present == 0 or num_present + num_sequences <= self.limit
