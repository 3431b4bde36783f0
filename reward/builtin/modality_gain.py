"""A reward for evidence where it matters: what a modality tells, times what a completion made of it."""

import asyncio
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from common.errors import ConfigError, MediaError, ScoringError
from common.media.conditions import SILENT
from common.protocols import ScoreLogprobsFn
from common.types import Condition, Modality
from reward.builtin.accuracy import AccuracyReward
from reward.builtin.parts.completion import think_part
from reward.builtin.parts.cues import LEXICONS
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_of_label
from reward.request import RewardRequest, RewardResult

MODALITY_OF: dict[Condition, Modality] = {
    "audio_muted": "audio",
    "audio_swapped": "audio",
    "video_blanked": "video",
}
OPENING, CLOSING = "<answer>", "</answer>"


@builtin_reward("modality_gain")
class ModalityGainReward:
    """The value of a completion by `anchor`, times the label's gain from the removed modality.

    Formula: anchor * s(gap), gap = log p(label | clip) - log p(label | clip without the modality), in nats. s is 1
    / (1 + exp(-gap / `scale`)), or clip(gap / `scale`, 0, 1). The anchor `evidence` is min(1, n / `needed`) for n
    distinct cues of the modality in the thought; `accuracy` is that reward. The label is scored in `<answer>`,
    after the question alone (`given: question`) or after the completion's own thought (`given: think`).
    Range: 0 to 1.
    Source: the gain of `affect_r1` and the audio ablation of MAPO; Video-R1's T-GRPO, whose flat bonus cancels.
    Needs: the rollout engines of a run (`bind`), so `reward.check` and `reward.http` refuse it; both modalities:
    None with one, or if the sound to be removed has no track. It costs two scoring calls per record and step, or
    per completion with `given: think`.
    Caution: after the question alone the gap is the same for a whole group. As a term it would cancel when rewards
    are centred. As a factor it stays, unless the anchor varies as the rest of the sum does (`accuracy`, if the form
    is always right): scaling by the group's deviation then cancels it as well. `evidence` does not have this
    problem.
    """

    needs_engines: ClassVar[bool] = True

    without: Literal["audio_muted", "audio_swapped", "video_blanked"] = "audio_muted"
    """The removed modality: `audio_muted`, `audio_swapped` (another clip's sound) or `video_blanked`."""
    anchor: Literal["evidence", "accuracy"] = "evidence"
    """The multiplied value of a completion."""
    given: Literal["question", "think"] = "question"
    """The text before the label."""
    form: Literal["sigmoid", "clip"] = "sigmoid"
    """The function from the gap to a factor."""
    scale: float = Field(default=1.0, gt=0)
    """Nats of one unit of the gap."""
    needed: int = Field(default=2, ge=1)
    """Distinct cues that earn the full anchor `evidence`."""

    def __call__(self, request: RewardRequest) -> RewardResult:
        # without engines there is no probability
        raise ConfigError(
            "modality_gain must run beside rollout engines, got none; score it in a run, or leave it out of "
            "reward.rewards"
        )

    def bind(self, score_logprobs: ScoreLogprobsFn) -> "BoundModalityGain":
        """The reward with its engines; its calls are awaited."""
        return BoundModalityGain(options=self, score_logprobs=score_logprobs)

    def anchor_of(self, request: RewardRequest) -> float:
        """The multiplied value of the completion, in [0, 1]."""
        if self.anchor == "accuracy":
            return AccuracyReward()(request)
        cues = LEXICONS[MODALITY_OF[self.without]].named(think_part(request.completion))
        return min(1.0, len(cues) / self.needed)

    def factor_of(self, gap: float) -> float:
        """The factor of a gap in nats, in [0, 1]."""
        units = gap / self.scale
        if self.form == "clip":
            return min(1.0, max(0.0, units))
        return 0.5 * (1.0 + math.tanh(0.5 * units))


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundModalityGain:
    """`ModalityGainReward` with the engines that score."""

    options: ModalityGainReward
    score_logprobs: ScoreLogprobsFn

    async def __call__(self, request: RewardRequest) -> RewardResult:
        if len(set(request.modalities)) < 2:
            return RewardResult(value=None, detail="nothing is left of a clip that shows one modality")
        try:
            gap = await self._gap(request)
        except MediaError as error:
            if error.reason != SILENT:
                raise
            return RewardResult(value=None, detail=f"the clip has no sound to take away: {error}")
        anchor = self.options.anchor_of(request)
        return RewardResult(value=anchor * self.options.factor_of(gap), facts={"gap": gap, "anchor": anchor})

    async def _gap(self, request: RewardRequest) -> float:
        before = request.completion.partition(OPENING)[0] if self.options.given == "think" else ""
        full, without = await asyncio.gather(
            self._score(request, before, "av"), self._score(request, before, self.options.without)
        )
        return full - without

    async def _score(self, request: RewardRequest, before: str, condition: Condition) -> float:
        logprob = await self.score_logprobs(
            request.record,
            condition=condition,
            prefix=before + OPENING,
            text=class_of_label(request.record) + CLOSING,
        )
        if not math.isfinite(logprob):
            raise ScoringError(
                f"record {request.record.prompt_id}: the label's log-probability ({condition}) must be finite, got "
                f"{logprob}; look at the engine"
            )
        return logprob
