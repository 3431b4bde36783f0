"""A reward by the votes of annotators who disagree."""

from collections import defaultdict

from common.labels import normalised
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_answered
from reward.request import RewardRequest, RewardResult


@builtin_reward("soft_label")
class SoftLabelReward:
    """The share of annotators who chose the class of the answer.

    Formula: p(class(answer)), divided by the largest share if `normalise` is set; 0 for an answer with no class or
    several. None without `Record.label_distribution`, or without a class of the taxonomy in it. Range: 0 to 1.
    Source: soft labels from annotators (Peterson et al. 2019), here as the share whom an answer satisfies.
    Caution: the best answer is still the majority's; only the loss of a near miss changes.
    """

    normalise: bool = True
    """Scale the reward of the majority's class to 1."""

    def __call__(self, request: RewardRequest) -> RewardResult:
        record = request.record
        if record.label_distribution is None:
            return RewardResult(value=None, detail="the record has no distribution of labels")
        shares: defaultdict[str | None, float] = defaultdict(float)
        for label, share in record.label_distribution.items():
            shares[normalised(label, record.taxonomy)] += share
        shares.pop(None, None)  # labels outside the taxonomy
        largest = max(shares.values(), default=0.0)
        if largest <= 0:
            return RewardResult(value=None, detail="the distribution holds no class of the taxonomy")
        share = shares.get(class_answered(request.completion, record.taxonomy), 0.0)
        return RewardResult(value=share / largest if self.normalise else share, facts={"share": share})
