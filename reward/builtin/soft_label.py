"""A reward for agreeing with annotators who did not agree among themselves."""

from collections import defaultdict

from common.labels import normalised
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_answered
from reward.request import RewardRequest, RewardResult


@builtin_reward("soft_label")
class SoftLabelReward:
    """The share of annotators who chose the answer.

    Formula: p(class(answer)), with `normalise` divided by the largest share; 0 if the answer names no class, or
    several. Labels of one class count together.
    Range: 0 to 1.
    Source: soft labels from annotators (Peterson et al. 2019), here as the share of annotators who agree.
    Needs: `Record.label_distribution`; None without one, or if it has no class of the taxonomy.
    Caution: the best answer is still the majority's; only the loss of a near miss changes.
    """

    normalise: bool = True
    """Divide by the largest share, so that the majority's class is worth 1."""

    def __call__(self, request: RewardRequest) -> RewardResult:
        record = request.record
        if record.label_distribution is None:
            return RewardResult(value=None, detail="the record has no distribution of labels")
        shares: defaultdict[str, float] = defaultdict(float)
        for label, share in record.label_distribution.items():
            if (name := normalised(label, record.taxonomy)) is not None:
                shares[name] += share
        largest = max(shares.values(), default=0.0)
        if largest <= 0:
            return RewardResult(value=None, detail="the distribution holds no class of the taxonomy")
        answered = class_answered(request.completion, record.taxonomy)
        share = shares.get(answered, 0.0) if answered is not None else 0.0
        return RewardResult(value=share / largest if self.normalise else share, facts={"share": share})
