"""WAR and UAR with bootstrap intervals, and recall by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.evaluation.bootstrap import Estimate
from common.evaluation.confusion import confusion_of, scores_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognition:
    """Recognition of labels; all values are fractions."""

    num_clips: int
    war: Estimate
    """Weighted average recall: the share of clips answered right."""
    uar: Estimate
    """Unweighted average recall: the mean of the recalls of the classes that occur."""
    recall: Mapping[str, float]
    """Recall by class."""
    support: Mapping[str, int]
    """Clips by class."""


def recognition(labels: Sequence[str], answers: Sequence[str | None], *, seed: int = 0) -> Recognition:
    """WAR and UAR of answers, with percentile intervals of a bootstrap over clips.

    An answer that is None or outside the taxonomy is wrong. Raises `ValueError` without clips.
    """
    confusion = confusion_of(labels, answers)
    scores = scores_of([confusion], seed=seed)
    return Recognition(
        num_clips=len(labels), war=scores.war, uar=scores.uar, recall=confusion.recall, support=confusion.support
    )
