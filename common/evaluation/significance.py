"""Tests of the difference of two policies on the same clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from common.evaluation.bootstrap import NUM_RESAMPLES, Estimate, interval, resampled


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """The first policy's value minus the second's, on the same clips."""

    num_clips: int
    only_first_right: int
    """Clips that the first policy answers right and the second wrong."""
    only_second_right: int
    war: Estimate
    """Difference of the WARs, the mean over folds; its interval is of a paired bootstrap within each fold."""
    mcnemar_p: float
    """Exact McNemar test, two-sided, of the clips of all folds together: the chance of so uneven a split of those
    on which just one is right."""
    uar: Estimate
    """Likewise of the UARs."""
    uar_p: float
    """Paired bootstrap, two-sided: twice the share of resamples on the lesser side of 0, at most 1."""


def paired_difference(
    labels: Sequence[str],
    first: Sequence[bool],
    second: Sequence[bool],
    *,
    folds: Sequence[int | None] | None = None,
    seed: int = 0,
) -> PairedDifference:
    """Compares two policies on the same clips, by the mean over folds.

    `first` and `second` are True for each clip that the policy answered correctly. Raises `ValueError` without
    clips or for different lengths.
    """
    if not labels or not len(labels) == len(first) == len(second):
        raise ValueError(
            f"a comparison must have the same clips on both sides, got {len(labels)} labels, {len(first)} and "
            f"{len(second)} answers"
        )
    members: dict[int | None, list[int]] = {}
    for index, fold in enumerate(folds or [None] * len(labels)):
        members.setdefault(fold, []).append(index)
    tables = [
        _counts(
            [labels[i] for i in fold_members], [first[i] for i in fold_members], [second[i] for i in fold_members]
        )
        for _, fold_members in sorted(members.items(), key=lambda one: one[0] or 0)
    ]
    rng = np.random.default_rng(seed)
    values = np.mean([_differences(counts[None])[:, 0] for counts in tables], axis=0)
    wars, uars = np.mean([_resampled(counts, rng) for counts in tables], axis=0)
    only_first, only_second = (sum(int(c[:, i, 1 - i].sum()) for c in tables) for i in (1, 0))
    return PairedDifference(
        num_clips=len(labels),
        only_first_right=only_first,
        only_second_right=only_second,
        war=interval(values[0], wars),
        mcnemar_p=mcnemar_p(only_first, only_second),
        uar=interval(values[1], uars),
        uar_p=_two_sided(uars),
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test on the clips that exactly one policy answered correctly; 1 without such
    clips.
    """
    # importing takes half a second
    from scipy import stats

    total = only_first + only_second
    return float(cast(Any, stats).binomtest(only_first, total).pvalue) if total else 1.0


def _counts(labels: Sequence[str], first: Sequence[bool], second: Sequence[bool]) -> np.ndarray:
    # int64 [classes, 2, 2]
    classes, owner = np.unique(np.array(labels, dtype=object).astype(str), return_inverse=True)
    counts = np.zeros((len(classes), 2, 2), dtype=np.int64)
    np.add.at(counts, (owner, np.array(first, dtype=int), np.array(second, dtype=int)), 1)
    return counts


def _resampled(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Differences of WAR and UAR: float64 [2, resamples]."""
    chunks = resampled(counts.reshape(-1), rng=rng, num=NUM_RESAMPLES)
    return np.concatenate([_differences(c.reshape(-1, *counts.shape)) for c in chunks], axis=1)


def _differences(counts: np.ndarray) -> np.ndarray:
    """WAR and UAR of the first policy minus those of the second: float64 [2, draws]."""
    support = counts.sum(axis=(2, 3))
    ahead = counts[:, :, 1, 0] - counts[:, :, 0, 1]
    is_there = support > 0
    recalls = np.divide(ahead, support, out=np.zeros_like(support, dtype=np.float64), where=is_there)
    return np.stack([ahead.sum(axis=1) / support.sum(axis=1), recalls.sum(axis=1) / is_there.sum(axis=1)])


def _two_sided(differences: np.ndarray) -> float:
    # the observed sample counts as a resample, so that no p-value is 0
    lesser = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (lesser + 1) / (len(differences) + 1))
