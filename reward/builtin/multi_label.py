"""A reward for clips that show several emotions."""

from collections.abc import Set as AbstractSet

from common.labels import readable_answer
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import classes_named, classes_of_labels
from reward.request import RewardRequest


@builtin_reward("multi_label_f1")
class MultiLabelReward:
    """F1 of the classes in the answer against those of the labels.

    Formula: 2 |A & L| / (|A| + |L|), for the affirmed classes A of the answer and L of the labels. Range: 0 to 1.
    Source: example-based F1 of multi-label classification (Godbole and Sarawagi 2004).
    Caution: emotions outside the taxonomy cost nothing; with the taxonomy `open` every emotion of the table counts.
    """

    def __call__(self, request: RewardRequest) -> float:
        named = classes_named(readable_answer(request.completion), request.record.taxonomy)
        return set_f1(named, classes_of_labels(request.record))


def set_f1(answered: AbstractSet[str], expected: AbstractSet[str]) -> float:
    """2 |A & L| / (|A| + |L|); 0 if both are empty."""
    return 2 * len(answered & expected) / max(1, len(answered) + len(expected))
