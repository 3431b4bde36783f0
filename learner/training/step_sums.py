"""Sums of one optimizer update, and the metrics made of them."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor


class StepSums:
    """Sums over micro-batches, then over ranks."""

    KEYS = ("loss", "num_tokens", "num_clipped", "entropy", "kl_ref", "sum_abs", "sum_kl_rollout")

    def __init__(self) -> None:
        self._sums: dict[str, float] = dict.fromkeys(self.KEYS, 0.0)
        self._max_abs = 0.0

    def add(self, key: str, value: Tensor | float) -> None:
        self._sums[key] += float(value)

    def see_max(self, value: float) -> None:
        """Keeps the largest value; NaN counts as larger than any number."""
        if math.isnan(value) or value > self._max_abs:
            self._max_abs = value

    def reduce(self, all_reduce: Callable[..., None]) -> dict[str, float]:
        sums = torch.tensor([self._sums[k] for k in self.KEYS], dtype=torch.float64)
        largest = torch.tensor([self._max_abs], dtype=torch.float64)
        all_reduce(sums)
        all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        values = cast(list[float], sums.tolist())
        return dict(zip(self.KEYS, values, strict=True)) | {"max_abs": float(largest)}

    @staticmethod
    def metrics(totals: dict[str, float]) -> dict[str, float]:
        """Means over tokens."""
        tokens = max(totals["num_tokens"], 1.0)
        return {
            "learner/loss": totals["loss"],
            "learner/num_tokens": totals["num_tokens"],
            "learner/clip_fraction": totals["num_clipped"] / tokens,
            "learner/entropy/mean": totals["entropy"] / tokens,
            "learner/kl_ref/mean": totals["kl_ref"] / tokens,
            "learner/kl_rollout/mean": totals["sum_kl_rollout"] / tokens,
            "learner/logprob_diff/mean": totals["sum_abs"] / tokens,
            "learner/logprob_diff/max": totals["max_abs"],
        }
