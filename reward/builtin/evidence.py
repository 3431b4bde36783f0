"""A reward for naming visible and audible evidence."""

from statistics import fmean as mean

from pydantic import Field

from common.types import Modality
from reward.builtin.parts.completion import think_part
from reward.builtin.parts.cues import LEXICONS
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest, RewardResult

MODALITIES: tuple[Modality, ...] = ("video", "audio")


@builtin_reward("evidence")
class EvidenceReward:
    """The share of expected cues that the thought names, for each presented modality.

    Formula: the mean over presented modalities of min(1, distinct cues / `needed`), minus `absent_penalty` times
    the same mean over the others. `reward/builtin/parts/cues.py` lists the cues. A denied cue ("no voice is heard")
    counts for a presented modality only. None without a modality. Range: -`absent_penalty` to 1.
    Source: the evidence coverage of HyDRA and of `affect_r1` (cosine to clues), with lexicons for embeddings.
    Caution: cues are named, not verified. Keep its weight below that of accuracy: in AffectGPT-R1 five rewards
    together lost 7 points against two.
    """

    needed: int = Field(default=2, ge=1)
    """Distinct cues of a modality for its full share."""
    absent_penalty: float = Field(default=1.0, ge=0)
    """Penalty of a full share of cues of an absent modality; 0 for none."""

    def __call__(self, request: RewardRequest) -> RewardResult:
        if not request.modalities:
            return RewardResult(value=None, detail="the policy was given neither video nor audio")
        thought = think_part(request.completion)
        present = [m for m in MODALITIES if m in request.modalities]
        absent = [m for m in MODALITIES if m not in request.modalities]
        cues = {m: LEXICONS[m].named(thought) if m in present else LEXICONS[m].claimed(thought) for m in MODALITIES}
        shares = {m: min(1.0, len(cues[m]) / self.needed) for m in MODALITIES}
        value = mean(shares[m] for m in present)
        if absent:
            value -= self.absent_penalty * mean(shares[m] for m in absent)
        return RewardResult(value=value, facts={f"{m}_cues": float(len(cues[m])) for m in MODALITIES})
