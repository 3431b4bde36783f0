"""95 % intervals of shares of clips: percentiles of a bootstrap over clips.

N clips drawn with replacement fall into the cells of a table as a multinomial of N with the cells' shares. Drawing
the counts therefore has the same distribution as drawing clips, at a cost independent of N.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
_MAX_NUMBERS = 2**23
"""Drawn at once: a table of many cells is drawn in several goes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A fraction with its 95 % interval."""

    value: float
    low: float
    high: float


def resampled(counts: np.ndarray, *, rng: np.random.Generator, num: int = NUM_RESAMPLES) -> Iterator[np.ndarray]:
    """Resamples counts, int64 [cells], `num` times; yields int64 [some resamples, cells]."""
    total = int(counts.sum())
    step = max(1, _MAX_NUMBERS // len(counts))
    for start in range(0, num, step):
        yield rng.multinomial(total, counts / total, size=min(step, num - start))


def interval(value: float, resamples: np.ndarray) -> Estimate:
    """The 2.5th and the 97.5th percentile of a value's resamples: float64 [resamples]."""
    low, high = np.percentile(resamples, (2.5, 97.5))
    return Estimate(value=float(value), low=float(low), high=float(high))
