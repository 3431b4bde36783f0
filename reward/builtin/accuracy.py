"""The reward for the right answer, and the same weighted by how rare a class is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import Field

from common.errors import ConfigError, DatasetError
from common.labels import normalised
from reward.builtin.parts.class_weights import class_weights
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_answered, class_of_label
from reward.request import RewardRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyReward:
    """1.0 if the answer names the class of the label, else 0.0.

    Formula: 1[class(answer) = class(label)], by the label table and the record's taxonomy: "anger", "Angry." and
    "he is furious" are one class; an answer with no class, or several, is wrong. The answer is the first
    `<answer>`, or the whole completion without one.
    Range: 0 or 1.
    Source: the accuracy reward of R1-Omni, read through the table of the evaluation; ERV normalises too.
    Caution: it improves WAR and perhaps not UAR: `class_balanced` weighs rare classes up.
    """

    def __call__(self, request: RewardRequest) -> float:
        expected = class_of_label(request.record)
        return 1.0 if class_answered(request.completion, request.record.taxonomy) == expected else 0.0


@builtin_reward("class_balanced")
class ClassBalancedReward:
    """The accuracy reward times the weight of the label's class, so that rare classes count.

    Formula: w(label) * accuracy; w(c) = min(`cap`, s f(c)^-`power`), where f is the share of class c among the
    training records and s makes the mean of w over them 1. With `power: 1` and no class at the cap, all classes
    weigh the same: the sum over an epoch is proportional to UAR, as that of `accuracy` is to WAR.
    Range: 0 to `cap`.
    Source: inverse-frequency weights, as in class-balanced losses (Cui et al. 2019), applied to the reward.
    Needs: `frequencies`, counts or shares of the training records by class; a label that they lack is an error.
    Caution: the weight is constant within a group, and cancels if advantages are divided by the group's deviation,
    unless another reward is added. Use it with unscaled advantages.
    """

    frequencies: Mapping[str, float] = Field(min_length=1)
    """Training records by class; counts or shares."""
    power: float = Field(default=1.0, ge=0)
    """0 weighs all alike, 1 by the inverse share."""
    cap: float = Field(default=10.0, ge=1)
    """The largest weight, at least 1."""
    _weights: Mapping[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weights = class_weights(_counts(self.frequencies), power=self.power, cap=self.cap)
        object.__setattr__(self, "_weights", MappingProxyType(weights))

    def __call__(self, request: RewardRequest) -> float:
        name = class_of_label(request.record)
        weight = self._weights.get(name)
        if weight is None:
            raise DatasetError(
                f"record {request.record.prompt_id}: class_balanced.frequencies must hold its class, got none for "
                f"{name!r}; it has {', '.join(self._weights)}"
            )
        return weight * AccuracyReward()(request)


def _counts(frequencies: Mapping[str, float]) -> dict[str, float]:
    """Counts by canonical class; raises `ConfigError` for a count <= 0 or a class with two entries."""
    counts: dict[str, float] = {}
    for key, count in frequencies.items():
        if count <= 0:
            raise ConfigError(
                f"class_balanced.frequencies.{key} must be a number > 0, got {count!r}; count the training records"
            )
        name = normalised(key, "open") or key.lower()
        if name in counts:
            raise ConfigError(
                f"class_balanced.frequencies must name each class once, got {key!r} for {name!r} again; add them up"
            )
        counts[name] = float(count)
    return counts
