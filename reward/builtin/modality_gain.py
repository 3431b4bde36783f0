"""A reward for evidence of an informative modality."""

import asyncio
import functools
import math
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Literal

from pydantic import Field

from common.errors import ConfigError, MediaError, ScoringError
from common.media.conditions import SILENT
from common.protocols import ScoreLogprobsFn
from common.types import Condition
from reward.builtin.accuracy import accuracy_of
from reward.builtin.parts.completion import think_part
from reward.builtin.parts.cues import LEXICONS
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_of_label
from reward.request import RewardRequest, RewardResult

BoundReward = Callable[[RewardRequest], Coroutine[Any, Any, RewardResult]]
OPENING, CLOSING = "<answer>", "</answer>"


@builtin_reward("modality_gain")
class ModalityGainReward:
    """The anchor of a completion, times the information about the label in the removed modality.

    Formula: anchor * s(gap), gap = log p(label | clip) - log p(label | clip without the modality), in nats. s is
    1 / (1 + exp(-gap / `scale`)), or clip(gap / `scale`, 0, 1). The anchor `evidence` is min(1, n / `needed`) for n
    distinct cues of the modality in the thought, `accuracy` is that reward. The label stands in `<answer>` after
    the question, or after the completion's thought (`given: think`). Range: 0 to 1.
    Source: the gain of `affect_r1` and the audio ablation of MAPO; Video-R1's T-GRPO, whose flat bonus cancels.
    Needs: the rollout engines of a run (`bind`), so `reward.check` and `reward.http` refuse it; both modalities,
    None with one, or without a track of the removed sound. It costs two scoring calls for each record and step, or
    for each completion with `given: think`.
    Caution: with `given: question` the gap is the same for a whole group. With `anchor: accuracy` it cancels if the
    rest of the sum varies alike and advantages are divided by the group's deviation; with `evidence` it does not.
    """

    needs_engines: ClassVar[bool] = True

    without: Literal["audio_muted", "audio_swapped", "video_blanked"] = "audio_muted"
    """Removal: `audio_muted`, `audio_swapped` (another clip's sound) or `video_blanked`."""
    anchor: Literal["evidence", "accuracy"] = "evidence"
    """Property of the completion that is multiplied."""
    given: Literal["question", "think"] = "question"
    """Text before the label: the question, or also the thought."""
    form: Literal["sigmoid", "clip"] = "sigmoid"
    """Function from the gap to the factor."""
    scale: float = Field(default=1.0, gt=0)
    """Nats of one unit of the gap."""
    needed: int = Field(default=2, ge=1)
    """Distinct cues for the full anchor `evidence`."""

    def __call__(self, request: RewardRequest) -> RewardResult:
        # without engines there is no probability
        raise ConfigError(
            "modality_gain must run beside rollout engines, got none; score it in a run, or leave it out of "
            "reward.rewards"
        )

    def bind(self, score_logprobs: ScoreLogprobsFn) -> BoundReward:
        return functools.partial(self._score, score_logprobs)

    async def _score(self, score_logprobs: ScoreLogprobsFn, request: RewardRequest) -> RewardResult:
        if len(set(request.modalities)) < 2:
            return RewardResult(value=None, detail="nothing is left of a clip that shows one modality")
        try:
            gap = await self._gap(score_logprobs, request)
        except MediaError as error:
            if error.reason != SILENT:
                raise
            return RewardResult(value=None, detail=f"the clip has no sound to take away: {error}")
        anchor = self._anchor(request)
        units = gap / self.scale
        # the sigmoid as a tanh does not overflow
        factor = min(1.0, max(0.0, units)) if self.form == "clip" else 0.5 * (1.0 + math.tanh(0.5 * units))
        return RewardResult(value=anchor * factor, facts={"gap": gap, "anchor": anchor})

    async def _gap(self, score_logprobs: ScoreLogprobsFn, request: RewardRequest) -> float:
        before = request.completion.partition(OPENING)[0] if self.given == "think" else ""
        text = class_of_label(request.record) + CLOSING

        async def logprob(condition: Condition) -> float:
            value = await score_logprobs(request.record, condition=condition, prefix=before + OPENING, text=text)
            if not math.isfinite(value):
                raise ScoringError(
                    f"record {request.record.prompt_id}: the label's log-probability ({condition}) must be finite, "
                    f"got {value}; look at the engine"
                )
            return value

        full, without = await asyncio.gather(logprob("av"), logprob(self.without))
        return full - without

    def _anchor(self, request: RewardRequest) -> float:
        if self.anchor == "accuracy":
            return accuracy_of(request)
        lexicon = LEXICONS["video" if self.without == "video_blanked" else "audio"]
        return min(1.0, len(lexicon.named(think_part(request.completion))) / self.needed)
