"""The comparison of one engine's answers under one noise with the ranks'."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.types import ProcessedPrompt
from learner.publishing.plan import PublishPlan
from learner.publishing.verification import Agreement, Evidence, Logprobs, agreement_of, evidence_of, minus

Layer = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """The comparison of one engine under one noise."""

    differences: Logprobs
    """The engine's log-probabilities minus the ranks'."""
    signatures: dict[Layer, Logprobs]
    """The differences of an engine with one old layer, without rounding."""
    tolerance: float
    """Largest difference that counts as rounding."""

    @property
    def agreement(self) -> Agreement:
        return agreement_of(self.differences)

    def evidence(self, layer: Layer) -> Evidence:
        return evidence_of(self.differences, self.signatures[layer])

    def culprit(self) -> tuple[Layer, Agreement] | None:
        """The old layer that would explain most, and the rest that it would leave unexplained."""
        stale = [layer for layer in self.signatures if self.evidence(layer).is_stale]
        rest = {layer: minus(self.differences, self.signatures[layer]) for layer in stale}
        if not rest:
            return None
        best = min(rest, key=lambda layer: sum(d * d for probe in rest[layer] for d in probe))
        return best, agreement_of(rest[best])

    @property
    def is_passed(self) -> bool:
        return self.culprit() is None and not self.agreement.exceeds(self.tolerance)

    def explanation(self) -> Layer | None:
        """The layer that explains the failure alone."""
        culprit = self.culprit()
        if culprit is None or (self.agreement.exceeds(self.tolerance) and culprit[1].exceeds(self.tolerance)):
            return None
        return culprit[0]

    def suspects(self, plan: PublishPlan, probes: Sequence[ProcessedPrompt]) -> list[Layer]:
        """All layers; only the towers' if probes with media disagree and texts agree."""
        media = [bool(p.placeholders) for p in probes]
        disagrees = [not d <= self.tolerance for d in self.agreement.by_probe]
        towers = set(plan.tower_names)
        only_media = any(media) and not any(d and not m for d, m in zip(disagrees, media, strict=True))
        return [layer for layer in plan.layers if not (towers and only_media) or towers & set(layer)]
