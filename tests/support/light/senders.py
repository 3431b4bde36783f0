"""Ranks of a few numbers that write real segments."""

from collections.abc import Sequence

import torch

from common.shared_memory import Segment, segment_path
from common.types import ProcessedPrompt, TensorReceipt
from tests.support.fakes import FakeSenders, Shared
from tests.support.light.processes import SHAPE, logprobs_of, to_float32


class LightSenders(FakeSenders):
    """`WeightSenders` for light engines."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        # as the checkpoint has them
        self.weights = {name: to_float32(weight) for name, weight in self.weights.items()}
        self.segments = [Segment(segment_path("light", i), num_bytes=shared.plan.segment_bytes) for i in range(2)]

    async def send_bucket(self, bucket: int) -> list[TensorReceipt]:
        """Each weight is a tensor of one number."""
        await self._enter("gather", str(bucket))
        tensors = {name: torch.full(SHAPE, self.weights[name]) for name in self.shared.plan.buckets[bucket]}
        return self.segments[bucket % 2].write(tensors)

    async def score(
        self, prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]:
        """As the engines compute it."""
        await self._enter("score", "")
        return [
            [logprobs_of(self.weights, p.prompt_token_ids, bool(p.placeholders), ids) for ids in group]
            for p, group in zip(prompts, completions, strict=True)
        ]

    def close(self) -> None:
        """Removes the segments."""
        for segment in self.segments:
            segment.close(unlink=True)
