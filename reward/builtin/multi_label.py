"""A reward for clips that show several emotions."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from common.labels import readable_answer
from reward.builtin.parts.record_classes import classes_named, classes_of_labels
from reward.request import RewardRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiLabelReward:
    """F1 of the classes that the answer names against those of the labels.

    Formula: 2 |A & L| / (|A| + |L|). A: classes that the answer names and does not deny; L: classes of
    `Record.labels`, or of a single label. 0 if the answer names none.
    Range: 0 to 1.
    Source: example-based F1 of multi-label classification (Godbole and Sarawagi 2004).
    Caution: emotions outside the taxonomy are ignored, and so cost nothing; with the taxonomy `open` they count.
    """

    def __call__(self, request: RewardRequest) -> float:
        named = classes_named(readable_answer(request.completion), request.record.taxonomy)
        return set_f1(named, classes_of_labels(request.record))


def set_f1(answered: AbstractSet[str], expected: AbstractSet[str]) -> float:
    """2 |A & L| / (|A| + |L|); 0 if both are empty."""
    return 2 * len(answered & expected) / max(1, len(answered) + len(expected))
