"""Configuration of the corpus and of what is made of its clips."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.config.base import Config, changeable
from common.config.corpora import AnyCorpus, AnyCorpusConfig, SourceConfig
from common.config.questions import Stage


class SyntheticDataConfig(Config):
    """A seeded corpus of drawn faces and synthetic voices, written into the run folder."""

    type: Literal["synthetic"]
    """Chooses this source."""
    num_cold_start: int = Field(default=84, ge=0)
    """Number of clips with an explanation, for the supervised stage."""
    num_train: int = Field(default=560, ge=1)
    """Number of clips with a label alone, for the reinforcement."""
    num_validation: int = Field(default=70, ge=0)
    """Number of clips to choose settings by."""
    num_heldout: int = Field(default=280, ge=0)
    """Number of clips for the evaluation, of people and voices that no other split has."""
    seed: int = 0
    """Seed of the corpus: people, voices, colours, sentences, order."""


AnySourceConfig = Annotated[AnyCorpus | SyntheticDataConfig, Field(discriminator="type")]


def _corpus() -> Any:
    return Field(default=None, json_schema_extra={"default_type": "r1_omni"})


class DataConfig(Config):
    """The corpus, and the limits on a clip."""

    source: AnySourceConfig = SyntheticDataConfig(type="synthetic")
    """Training clips of GRPO; a synthetic corpus also provides all other splits."""
    cold_start: AnyCorpusConfig | None = _corpus()
    """Clips with explanations, for the supervised stage."""
    validation: AnyCorpusConfig | None = _corpus()
    """Clips that a checkpoint is chosen by."""
    heldout: AnyCorpusConfig | None = _corpus()
    """Clips that the evaluation asks."""
    taxonomy: Literal["dfew", "mafw", "mafw_compound", "r1_omni", "ravdess", "ravdess7", "mer", "open"] = "r1_omni"
    """Labels that may occur: those of one corpus, the eleven that R1-Omni joins of DFEW and MAFW, or any."""
    question: str | None = None
    """Question for every clip; null takes the published question of `question_of`."""
    question_of: Stage = "grpo"
    """Stage whose published question is used: GRPO, cold start, demonstration or evaluation."""
    show_transcripts: bool = False
    """Show the transcript of a clip before its question."""
    transcript_dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of the training prompts without their transcript, redrawn each epoch."""
    video_dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of the training prompts with sound alone, redrawn each epoch."""
    audio_dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of the training prompts with the picture alone, redrawn each epoch."""
    missing_audio: Literal["video_only", "skip"] = "video_only"
    """Action for a clip without an audio track: use the video alone, or count it and leave it out."""
    max_fps: float = Field(default=12.0, gt=0)
    """Frames per second taken at most."""
    max_frames: int = Field(default=64, ge=1)
    """Frames taken at most, spread evenly."""
    max_audio_s: float = Field(default=30.0, gt=0)
    """Seconds of sound taken at most; a longer waveform is refused with a reason, never cut."""
    max_video_s: float = Field(default=60.0, gt=0)
    """A longer video is refused with a reason, as its frames would be spread too thin to show anything."""
    min_pixels: int = Field(default=28 * 28, ge=28 * 28)
    """Fewest pixels of a frame after resizing."""
    max_pixels: int = Field(default=224 * 224, ge=28 * 28)
    """Most pixels of a frame after resizing."""
    frame_shape: Literal["keep", "pad", "square"] = "keep"
    """Frames as they are, padded to a square in grey (R1-Omni trains so), or squashed to one (is evaluated so)."""
    num_cpus: float = changeable(0.2, gt=0)
    """Ray CPUs of one decoding task."""
    cache_gib: float = changeable(1.0, ge=0)
    """Cache of processed clips, in GiB."""
    deadline_s: float = changeable(120.0, gt=0)
    """Seconds until the decoding of a clip counts as failed."""

    @model_validator(mode="after")
    def fewest_pixels_are_no_more_than_most(self) -> Self:
        # a frame could not satisfy both limits
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"data.min_pixels must be <= data.max_pixels, got {self.min_pixels} > {self.max_pixels}; "
                "lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def a_clip_keeps_one_modality(self) -> Self:
        # a prompt needs a modality
        total = self.video_dropout + self.audio_dropout
        if total > 1:
            raise ValueError(
                f"data.video_dropout and data.audio_dropout must add up to at most 1, got {total:g}; lower one"
            )
        return self

    @model_validator(mode="after")
    def dropped_transcripts_are_shown_ones(self) -> Self:
        # a share of nothing would have no effect
        if self.transcript_dropout and not self.show_transcripts:
            raise ValueError(
                "data.transcript_dropout must be 0 without data.show_transcripts, got "
                f"{self.transcript_dropout:g}; set show_transcripts to true"
            )
        return self

    @model_validator(mode="after")
    def validation_is_what_training_leaves(self) -> Self:
        # with two shares or seeds, clips could be in both
        train, chosen = self.source, self.validation
        if (
            isinstance(train, SourceConfig)
            and isinstance(chosen, SourceConfig)
            and chosen.part in (None, "validation")
            and chosen.validation_share
            and train.part in (None, "train")
            and _corpus_of(train) == _corpus_of(chosen)
            and (train.validation_share, train.validation_seed) != (chosen.validation_share, chosen.validation_seed)
        ):
            raise ValueError(
                "data.source.validation_share and validation_seed must be those of data.validation, got "
                f"{train.validation_share:g} and {train.validation_seed} beside {chosen.validation_share:g} and "
                f"{chosen.validation_seed}; clips would be in both otherwise"
            )
        return self


def _corpus_of(source: SourceConfig) -> dict[str, Any]:
    return source.model_dump(
        include={"type", "root", "path", "fold", "labels", "variant", "subset", "song", "calm"}
    )
