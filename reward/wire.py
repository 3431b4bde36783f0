"""Bodies of the reward service's requests and responses, with their limits; named actors get the same samples.

Validation stops at the first error of an array or a mapping, so that a large body cannot cause a million errors.
"""

from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict, model_validator

from common.types import Clip, Record
from reward.request import RewardRequest, modalities_of

MAX_SAMPLES, MAX_TEXT, MAX_TOKENS, MAX_LABELS = 1024, 100_000, 32_768, 256
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=1024)]
Item = TypeVar("Item")
# parsed JSON arrays are lists, which a strict tuple would refuse
Array = Annotated[tuple[Item, ...], Strict(False), FailFast()]


class WireModel(BaseModel):
    """Base class of all bodies."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def reports_few_unknown_fields(cls, value: object) -> object:
        """Drops fields beyond one more than the model has; at least one unknown field remains."""
        if isinstance(value, dict) and len(value := cast(dict[str, object], value)) > len(cls.model_fields):
            return dict(islice(value.items(), len(cls.model_fields) + 1))
        return value


class WireSample(WireModel):
    """A completion and the known fields of its clip."""

    completion: Text
    """Text, special tokens left out."""
    label: Name = ""
    """The clip's label."""
    labels: Array[Name] = Field(default=(), max_length=MAX_LABELS)
    """All labels of a clip that has several."""
    label_distribution: Annotated[dict[Name, float] | None, FailFast()] = Field(default=None, max_length=MAX_LABELS)
    """Share of the annotators by label, in [0, 1]."""
    taxonomy: Name = "open"
    """Taxonomy of the labels."""
    question: Text = ""
    """Question of the prompt."""
    transcript: Text | None = None
    """Transcript of the clip."""
    prompt_id: Name = ""
    """Id of the clip within its corpus."""
    dataset: Name = ""
    """The corpus."""
    split: Name = ""
    """Split of the corpus."""
    token_ids: Array[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=(), max_length=MAX_TOKENS)
    """Token ids of the completion; empty if only the text is known."""
    video_path: Name | None = None
    """File of the clip, as the service sees it."""
    audio_path: Name | None = None
    """File of the clip's sound; the video file if it contains the sound."""
    duration_s: float | None = Field(default=None, ge=0)
    """Seconds of the clip."""
    group: Name = ""
    """Samples with the same group are compared: every reward scores all of them or none.
    By default samples with the same `prompt_id` are a group, and a sample without one is its own.
    """


class ScoreBatch(WireModel):
    """Body of `POST /v1/score`."""

    samples: Array[WireSample] = Field(min_length=1, max_length=MAX_SAMPLES)
    """Samples in any order; the results have the same order."""


class WireError(BaseModel):
    """Reason why a group has no score."""

    reason: str
    """Short and countable: the reward and the kind of its failure."""
    detail: str
    """One line."""


class WireResult(BaseModel):
    """Result of one sample."""

    total: float | None
    """The weighted sum; null with an error, or if no reward applies."""
    breakdown: dict[str, float] = {}
    """Unweighted values by reward."""
    details: dict[str, str] = {}
    """Details that rewards return with their values."""
    facts: dict[str, float] = {}
    """Figures beside the values, by `reward/figure`."""
    left_out: tuple[str, ...] = ()
    """Rewards that do not count in the sums of the whole group."""
    error: WireError | None = None
    """Reason of a missing score."""


class ScoreReply(BaseModel):
    """Answer of `POST /v1/score`."""

    results: tuple[WireResult, ...]
    """One per sample, in their order."""


class RewardInfo(BaseModel):
    """A configured reward."""

    name: str
    type: str
    weight: float
    on_error: str
    requires: str | None
    documentation: str


class RewardList(BaseModel):
    """Answer of `GET /v1/rewards`."""

    rewards: tuple[RewardInfo, ...]


class Refusal(BaseModel):
    """Reason why a request was refused."""

    field: str
    """Dotted name of the wrong field; `body` for the whole body."""
    message: str


SHARED = ("prompt_id", "question", "label", "dataset", "split", "taxonomy", "transcript")
"""Fields that a sample and a `Record` share, with the same values."""


def sample_of(request: RewardRequest, *, with_paths: bool) -> dict[str, Any]:
    """A request as a mapping of plain values; `with_paths` includes the paths of the clip's files."""
    record = request.record
    sample: dict[str, Any] = {
        "completion": request.completion,
        **{name: getattr(record, name) for name in SHARED},
        "labels": list(record.labels),
        "label_distribution": None if record.label_distribution is None else dict(record.label_distribution),
        "token_ids": list(request.token_ids),
        "duration_s": request.duration_s,
    }
    if with_paths:
        sample |= {"video_path": record.clip.video_path, "audio_path": record.clip.audio_path}
    return sample


def request_of(sample: WireSample) -> RewardRequest:
    clip = Clip(clip_id=sample.prompt_id, video_path=sample.video_path, audio_path=sample.audio_path)
    shared: dict[str, Any] = {name: getattr(sample, name) for name in SHARED}
    return RewardRequest(
        completion=sample.completion,
        token_ids=sample.token_ids,
        record=Record(clip=clip, labels=sample.labels, label_distribution=sample.label_distribution, **shared),
        modalities=modalities_of(clip),
        duration_s=sample.duration_s,
    )


def stray_path(sample: WireSample, *, media_root: Path | None) -> str | None:
    """The name of the first path that is outside the folder; None if all are inside."""
    for name, path in (("video_path", sample.video_path), ("audio_path", sample.audio_path)):
        if path is not None and (media_root is None or not _lies_in(path, media_root)):
            return name
    return None


def _lies_in(path: str, folder: Path) -> bool:
    try:
        return Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False
