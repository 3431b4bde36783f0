"""One rank's part in a publish: gathers buckets, and on rank 0 writes them to shared memory.

Every method but `open` is a collective of all ranks.
"""

import logging
from collections.abc import Sequence

from common.shared_memory import Segment, segment_path, sweep_segments
from common.types import TensorReceipt
from learner.publishing.plan import PublishPlan
from learner.zero.weight_source import WeightSource

logger = logging.getLogger(__name__)


class WeightSender:
    """The published weights of one rank, and on rank 0 the two segments."""

    def __init__(self, source: WeightSource, plan: PublishPlan, *, rank: int) -> None:
        self.plan = plan
        self._source = source
        self._rank = rank
        self._segments: list[Segment] = []

    def open(self) -> list[str]:
        """Allocates the two segments, on rank 0, once; returns their paths there and nothing elsewhere."""
        if self._rank == 0 and not self._segments:
            for path in sweep_segments():
                logger.info("removed %s, left behind by a process that is gone", path)
            for i in range(2):
                segment = Segment(segment_path("learner", i), num_bytes=self.plan.segment_bytes)
                segment.pin()
                self._segments.append(segment)
        return [str(s.path) for s in self._segments]

    def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        """Gathers one bucket on all ranks and writes it on rank 0; returns the manifest there."""
        with self._source.whole(self.plan.buckets[bucket]) as tensors:
            if self._rank == 0:
                self._segments[bucket % 2].put(tensors)
        return self._segments[bucket % 2].manifest() if self._rank == 0 else []

    def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None:
        """Mixes noise into every published tensor, or into those of some layers; `restore` takes it back.

        Args:
            scale: relative to each tensor's root mean square.
            nonce: another gives other noise.
            names: which of the published tensors; None for all.
        """
        for name in self.plan.names:
            if names is None or name in names:
                self._source.perturb(name, scale=scale, nonce=nonce)

    def restore(self, *, names: Sequence[str] | None = None) -> None:
        self._source.restore(names=names)

    def close(self) -> None:
        for segment in self._segments:
            segment.close(unlink=True)
        self._segments.clear()
