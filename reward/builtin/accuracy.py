"""Rewards for the right answer, with equal weights or with weights by class frequency."""

from collections.abc import Mapping
from dataclasses import field

from pydantic import Field, PositiveFloat

from common.errors import ConfigError, DatasetError
from common.labels import normalised
from reward.builtin.parts.class_weights import class_weights
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_answered, class_of_label
from reward.request import RewardRequest


@builtin_reward("accuracy")
class AccuracyReward:
    """1.0 if the answer names the class of the label, else 0.0.

    Formula: 1[class(answer) = class(label)], where "he is furious" has the class `angry`. Range: 0 or 1.
    Source: the accuracy reward of R1-Omni, with the label table of the evaluation; ERV normalises too.
    Caution: it optimises WAR, perhaps at the cost of UAR: `class_balanced` gives rare classes more weight.
    """

    def __call__(self, request: RewardRequest) -> float:
        expected = class_of_label(request.record)
        return 1.0 if class_answered(request.completion, request.record.taxonomy) == expected else 0.0


accuracy_of = AccuracyReward()


@builtin_reward("class_balanced")
class ClassBalancedReward:
    """The accuracy reward times the weight of the label's class, which is higher for rare classes.

    Formula: w(label) * accuracy; w(c) = min(`cap`, s f(c)^-`power`) with the share f(c) of the training records; s
    makes the mean of w 1. With `power: 1` below the cap, its sum is proportional to UAR. Range: 0 to `cap`.
    Source: inverse-frequency weights, as in class-balanced losses (Cui et al. 2019), moved into the reward.
    Caution: it needs unscaled advantages or a second reward. The weight is constant within a group, and cancels if
    advantages are divided by the group's deviation.
    """

    frequencies: Mapping[str, PositiveFloat] = Field(min_length=1)
    """Training records of every class; counts or shares."""
    power: float = Field(default=1.0, ge=0)
    """Exponent of the inverse share: 0 for equal weights."""
    cap: float = Field(default=10.0, ge=1)
    """The largest weight, at least 1."""
    _weights: Mapping[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts: dict[str, float] = {}
        for key, count in self.frequencies.items():
            name = normalised(key, "open") or key.lower()
            if name in counts:
                raise ConfigError(
                    f"class_balanced.frequencies must name each class once, got {key!r} for {name!r}; add them up"
                )
            counts[name] = count
        object.__setattr__(self, "_weights", class_weights(counts, power=self.power, cap=self.cap))

    def __call__(self, request: RewardRequest) -> float:
        name = class_of_label(request.record)
        weight = self._weights.get(name)
        if weight is None:
            raise DatasetError(
                f"record {request.record.prompt_id}: class_balanced.frequencies must hold its class, got none for "
                f"{name!r}; it has {', '.join(self._weights)}"
            )
        return weight * accuracy_of(request)
