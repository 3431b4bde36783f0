"""One rank's part in a publish: gathers buckets, and on rank 0 writes them to shared memory.

Every method but `open` is a collective of all ranks.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.types import TensorReceipt
from common.weights import Segment, segment_path, sweep_segments
from learner.plan import PublishPlan
from learner.weights import gather_bucket, gathered, overwrite, perturbed, storage_of

logger = logging.getLogger(__name__)


class WeightSender:
    """The published parameters of one rank, and on rank 0 the two segments."""

    def __init__(self, parameters: dict[str, nn.Parameter], plan: PublishPlan, *, rank: int) -> None:
        self.plan = plan
        self._parameters = parameters
        self._rank = rank
        self._segments: list[Segment] = []
        self._saved: dict[str, Tensor] = {}

    def open(self) -> list[str]:
        """Allocates the two segments, on rank 0, once; returns their paths there and nothing elsewhere."""
        if self._rank == 0 and not self._segments:
            for path in sweep_segments():
                logger.info("removed %s, left behind by a process that is gone", path)
            for i in range(2):
                self._segments.append(Segment(segment_path("learner", i), num_bytes=self.plan.segment_bytes))
        return [str(s.path) for s in self._segments]

    def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        """Gathers one bucket on all ranks, then writes it on rank 0; returns the manifest there."""
        tensors = gather_bucket(self._parameters, self.plan.buckets[bucket])
        return self._segments[bucket % 2].write(tensors) if self._rank == 0 else []

    def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None:
        """Mixes noise into every published tensor, or into those of some layers; `restore` takes it back.

        Args:
            scale: relative to each tensor's root mean square.
            nonce: another gives other noise.
            names: which of the published tensors; None for all.
        """
        for name in self.plan.names:
            if names is not None and name not in names:
                continue
            parameter = self._parameters[name]
            self._saved.setdefault(name, storage_of(parameter).clone())
            with torch.no_grad(), gathered([parameter], modify=True):
                parameter.copy_(perturbed(name, parameter, scale=scale, nonce=nonce))

    def restore(self, *, names: Sequence[str] | None = None) -> None:
        """Puts the perturbed tensors back, bit for bit: all of them, or these."""
        for name in list(self._saved) if names is None else names:
            overwrite(self._parameters[name], self._saved.pop(name))

    def close(self) -> None:
        """Removes the segments."""
        for segment in self._segments:
            segment.close(unlink=True)
        self._segments.clear()
