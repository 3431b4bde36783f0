"""What a reward is asked, with only what a test cares about spelled out."""

from collections.abc import Mapping
from dataclasses import replace

from common.types import Modality
from reward.request import RewardRequest, RewardResult
from tests.support.builders import make_record


def make_request(
    completion: str,
    *,
    label: str = "happy",
    labels: tuple[str, ...] = (),
    label_distribution: Mapping[str, float] | None = None,
    taxonomy: str = "r1_omni",
    transcript: str | None = None,
    modalities: tuple[Modality, ...] = ("video", "audio"),
    token_ids: tuple[int, ...] = (),
) -> RewardRequest:
    """One completion over a labelled clip that no file holds."""
    record = replace(
        make_record(label=label),
        labels=labels,
        label_distribution=label_distribution,
        taxonomy=taxonomy,
        transcript=transcript,
    )
    return RewardRequest(completion=completion, token_ids=token_ids, record=record, modalities=modalities)


def value_of(answer: float | RewardResult | None) -> float | None:
    """The number, however a reward gives it."""
    return answer.value if isinstance(answer, RewardResult) else answer
