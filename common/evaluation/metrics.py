"""WAR and UAR with bootstrap intervals, and recall by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A fraction with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognition:
    """How well labels were recognised; all values are fractions."""

    num_clips: int
    war: Estimate
    """Weighted average recall: the share of clips answered right."""
    uar: Estimate
    """Unweighted average recall: the mean of the recalls of the classes that occur."""
    recall: Mapping[str, float]
    """By class."""
    support: Mapping[str, int]
    """Clips by class."""


def recognition(labels: Sequence[str], answers: Sequence[str | None], *, seed: int = 0) -> Recognition:
    """Compares answers with labels; an answer outside the taxonomy, or none, is wrong.

    The intervals are percentiles of a bootstrap over clips.

    Args:
        labels: of the clips.
        answers: in the same order; None where there was none.
        seed: of the resampling.

    Raises:
        ValueError: there is nothing to compare.
    """
    if not labels:
        raise ValueError("an evaluation must have clips, got none")
    classes = sorted(set(labels))
    index = np.array([classes.index(label) for label in labels])
    correct = np.array([a == b for a, b in zip(labels, answers, strict=True)], dtype=np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(labels), (NUM_RESAMPLES, len(labels)))
    resampled = correct[draws]
    recalls = _recalls(correct, index, len(classes))
    uars = np.array(
        [np.nanmean(_recalls(c, index[d], len(classes))) for c, d in zip(resampled, draws, strict=True)]
    )
    return Recognition(
        num_clips=len(labels),
        war=_estimate(float(correct.mean()), resampled.mean(axis=1)),
        uar=_estimate(float(recalls.mean()), uars),
        recall=dict(zip(classes, map(float, recalls), strict=True)),
        support={name: int((index == i).sum()) for i, name in enumerate(classes)},
    )


def _recalls(correct: np.ndarray, index: np.ndarray, num_classes: int) -> np.ndarray:
    """float64 [classes]; NaN for a class that a resample has not drawn."""
    right = np.bincount(index, weights=correct, minlength=num_classes)
    count = np.bincount(index, minlength=num_classes)
    return np.divide(right, count, out=np.full(num_classes, np.nan), where=count > 0)


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Estimate(value=value, low=float(low), high=float(high))
