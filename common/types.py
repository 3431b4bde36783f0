"""Messages between processes: frozen dataclasses. Shapes, dtypes and units are under each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NewType

if TYPE_CHECKING:
    import numpy as np

Modality = Literal["video", "audio"]
Control = Literal["video_only", "audio_only", "swapped_audio", "no_think", "label_list"]
"""A condition of the evaluation. It changes the record: which files are decoded, or what the question says."""
Condition = Literal["av"] | Control | Literal["audio_muted", "audio_swapped", "video_blanked"]
"""The presentation of a clip; `av` is unchanged.

The last three change the decoded clip and leave the question: silence, another clip's sound, black frames.
"""
FinishReason = Literal["stop", "length", "abort"]
MediaRef = NewType("MediaRef", object)
"""A handle to a `ProcessedPrompt` that stays out of the driver: a Ray object reference in a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A video with its audio, as files."""

    clip_id: str
    video_path: str | None
    """mp4 or any container decord reads, or a folder of frames; None for audio only."""
    audio_path: str | None
    """None for no audio; the same path as the video when the track is inside it."""
    frames_fps: float | None = None
    """Frames per second where the video is a folder of frames, whose files do not say it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One labelled clip of a corpus."""

    prompt_id: str
    """Unique within a corpus."""
    clip: Clip
    question: str
    label: str
    dataset: str
    split: str
    response: str | None = None
    """The full answer of the corpus: an explanation with its label, or the label alone."""
    labels: tuple[str, ...] = ()
    """Every label of a clip that has several; empty where `label` is the only one."""
    label_distribution: Mapping[str, float] | None = None
    """Share of the annotators by label, in [0, 1]; None where it is not known."""
    taxonomy: str = "open"
    """Taxonomy of the labels: a key of `common.labels.TAXONOMIES`."""
    transcript: str | None = None
    """Transcript of the speech; None if unknown."""
    fold: int | None = None
    """Fold of a cross-validation, counted from 1."""
    caption: str | None = None
    """Caption of the clip in the corpus; None without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One request for a group of one prompt: the unit of the ledger."""

    epoch: int
    record: Record
    draw: int
    """0 at first; +1 for each redraw of the same prompt in the same epoch."""
    position: int = 0
    """Position in the stream."""

    @property
    def key(self) -> str:
        return f"{self.epoch}/{self.record.prompt_id}/{self.draw}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedClip:
    """Frames and waveform as decoded from the files."""

    frames: np.ndarray | None
    """uint8 [T, H, W, 3], T >= 1."""
    fps: float
    """True frames per second of `frames`; 0.0 without video."""
    waveform: np.ndarray | None
    """float32 [S], 16 kHz, channels averaged, S >= 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessedPrompt:
    """A prompt as both planes consume it, processed once."""

    prompt_token_ids: tuple[int, ...]
    """[P], every placeholder already expanded."""
    tensors: Mapping[str, np.ndarray]
    """The family's processed tensors by the family's names; empty for text only."""
    placeholders: Mapping[Modality, tuple[int, int]]
    """First token and number of tokens of each modality's placeholder run."""
    clip_hash: str
    """Hash of the processed tensors: the clip's identity in every cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A draw with a prepared clip."""

    draw: Draw
    media: MediaRef
    num_prompt_tokens: int
    seed: int
    """Seed in [0, 2^62); completion i of the group samples with seed + i."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSpec:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    max_tokens: int = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSpan:
    """Tokens [start, end) of one completion were sampled under `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer of the policy."""

    token_ids: tuple[int, ...]
    """[C]"""
    rollout_logprobs: tuple[float, ...]
    """[C], of the sampled tokens, temperature and truncation applied."""
    text: str
    finish_reason: FinishReason
    version_spans: tuple[VersionSpan, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """The completions of one prompt."""

    completions: tuple[Completion, ...]
    submission_version: int
    """policy_version of the engine when the request was submitted: the version of the prefill."""
    engine: str

    @property
    def min_policy_version(self) -> int:
        spans = [s.version for c in self.completions for s in c.version_spans]
        return min([self.submission_version, *spans])


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An expected failure as data: counted, attributed, never raised."""

    stage: Literal["media", "rollout", "reward", "stale"]
    reason: str
    """Short and countable: `undecodable`, `deadline`, ..."""
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The reward of one completion."""

    total: float
    breakdown: Mapping[str, float]
    """Unweighted value by reward, without rewards that were left out for the whole group."""
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    """Details that rewards return with their values, by reward."""
    facts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Figures of rewards beside their values, by `reward/figure`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One prompt + completion + reward: trainable."""

    completion: Completion
    score: Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The `group_size` samples of one prompt."""

    prompt: Prompt
    samples: tuple[Sample, ...]
    min_policy_version: int
    engine: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """The report of one optimizer step."""

    metrics: Mapping[str, float]
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds by phase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorReceipt:
    """One tensor as it was sent, or as a worker passed it to `load_weights`."""

    name: str
    """Name in the checkpoint."""
    shape: tuple[int, ...]
    dtype: str
    digest: str
    """64-bit blake3 of the bytes, hexadecimal."""
