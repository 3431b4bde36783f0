"""What a reward sees of one completion, and what it may answer."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.types import Modality, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardRequest:
    """One completion and what is known of its clip."""

    completion: str
    """Text, special tokens left out."""
    token_ids: tuple[int, ...]
    """[C]; empty where only the text is known."""
    record: Record
    """The question, label or labels, their distribution, dataset, taxonomy, transcript and files."""
    modalities: tuple[Modality, ...]
    """What the policy was given."""
    duration_s: float | None = None
    """Of the clip; None where it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardResult:
    """What one completion is worth to one reward."""

    value: float | None
    """None where the reward does not apply."""
    detail: str = ""
    """For the reader of the breakdown."""
    facts: Mapping[str, float] | None = None
    """Figures beside the value, logged with it."""
