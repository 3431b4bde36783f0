"""Scores of open labels at the first level of a wheel of emotions, as sets of sectors.

The measure is AffectGPT's: precision and recall of sets, over clips, and their harmonic mean. AffectGPT averages
over five wheels and this module uses Plutchik's, so the values are not comparable.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.emotions.wheel import Wheel
from common.evaluation.bootstrap import Estimate, interval, resampled
from common.labels import mentions, readable_answer


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelScores:
    """Means over clips, fractions."""

    precision: Estimate
    """Share of the answered sectors that are labelled; 0 for an answer without any."""
    recall: Estimate
    """Share of the labelled sectors that are answered."""
    f1: Estimate
    """Harmonic mean of the two means."""


def sectors_in(text: str) -> frozenset[str]:
    """The sectors of the emotions that a text names and does not deny; an emotion outside the wheel is its own
    sector.
    """
    named = [mention for mention in mentions(text) if not mention.is_negated]
    return frozenset(_wheel().level1(mention.surface) or mention.emotion for mention in named)


@functools.cache
def _wheel() -> Wheel:
    return Wheel.load()


def wheel_scores(clips: Sequence[tuple[Sequence[str], str]], *, seed: int = 0) -> WheelScores:
    """Compares the sectors of labels and completions; raises `ValueError` without clips."""
    if not clips:
        raise ValueError("an evaluation must have clips, got none")
    pairs = Counter(_precision_and_recall(labels, text) for labels, text in clips)
    shares = np.array(list(pairs))
    counts = np.array(list(pairs.values()))
    values = _means(counts[None], shares)[:, 0]
    rng = np.random.default_rng(seed)
    resamples = np.concatenate([_means(chunk, shares) for chunk in resampled(counts, rng=rng)], axis=1)
    precision, recall, f1 = (interval(float(v), r) for v, r in zip(values, resamples, strict=True))
    return WheelScores(precision=precision, recall=recall, f1=f1)


def _precision_and_recall(labels: Sequence[str], text: str) -> tuple[float, float]:
    # a label that the table does not know is a sector of its own
    labelled = frozenset[str]().union(*(sectors_in(label) or {label.strip().lower()} for label in labels))
    answer = readable_answer(text)
    named = sectors_in(answer) or ({answer.lower()} if answer else set[str]())
    common = len(labelled & named)
    return (common / len(named) if named else 0.0), common / len(labelled)


def _means(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Precision, recall and F1: float64 [3, draws] of int64 [draws, cells] and float64 [cells, 2]."""
    precision, recall = (counts @ shares / counts.sum(axis=1, keepdims=True)).T
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return np.stack([precision, recall, f1])
