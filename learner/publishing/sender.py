"""One rank's part in a publish: gathers buckets, and writes them to shared memory on rank 0."""

import errno
import logging
from collections.abc import Sequence

from common.errors import ClusterError
from common.shared_memory import SEGMENT_FOLDER, Segment, segment_path, sweep_segments
from common.types import TensorReceipt
from learner.publishing.plan import PublishPlan
from learner.zero.weight_source import WeightSource

logger = logging.getLogger(__name__)


class WeightSender:
    """The published weights, and on rank 0 the two segments. Every method except `open` is a collective."""

    def __init__(self, source: WeightSource, plan: PublishPlan, *, rank: int) -> None:
        self.plan = plan
        self._source = source
        self._rank = rank
        self._segments: list[Segment] = []

    def open(self) -> list[str]:
        """Allocates the two segments once, on rank 0; returns their paths, which other ranks have none of."""
        if self._rank == 0 and not self._segments:
            for path in sweep_segments():
                logger.info("removed %s, left by a process that has ended", path)
            for i in range(2):
                segment = _segment(i, num_bytes=self.plan.segment_bytes)
                segment.pin()
                self._segments.append(segment)
        return [str(s.path) for s in self._segments]

    def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        """Writes one bucket and returns its manifest, on rank 0."""
        with self._source.whole(self.plan.buckets[bucket]) as tensors:
            if self._rank == 0:
                self._segments[bucket % 2].put(tensors)
        return self._segments[bucket % 2].manifest() if self._rank == 0 else []

    def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None:
        """Mixes noise of `scale` times each tensor's root mean square into the named tensors, all for None."""
        for name in self.plan.names:
            if names is None or name in names:
                self._source.perturb(name, scale=scale, nonce=nonce)

    def restore(self, *, names: Sequence[str] | None = None) -> None:
        self._source.restore(names=names)

    def close(self) -> None:
        for segment in self._segments:
            segment.close(unlink=True)
        self._segments.clear()


def _segment(index: int, *, num_bytes: int) -> Segment:
    try:
        return Segment(segment_path("learner", index), num_bytes=num_bytes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # not a failure of the rank: a new one would meet the same disk
        raise ClusterError(
            f"{SEGMENT_FOLDER} must have room for two segments of {num_bytes / 2**20:.0f} MiB, got too little; "
            "enlarge it, remove files there, or lower learner.publish.bucket_bytes"
        ) from error
