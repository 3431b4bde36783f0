"""Configuration of the corpus and of what is made of its clips."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.base import Config, changeable
from common.questions import Stage


class R1OmniDataConfig(Config):
    """A corpus in R1-Omni's JSON: a list of `{"video", "conversations"}` records."""

    type: Literal["r1_omni"]
    """Chooses this source."""
    path: str
    """JSON file of the records."""
    media_root: str | None = changeable(None)
    """Folder that the records' paths start from; null takes the JSON file's folder."""


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


AnySourceConfig = Annotated[R1OmniDataConfig | SyntheticDataConfig, Field(discriminator="type")]


class DataConfig(Config):
    """The corpus, and the limits on a clip."""

    source: AnySourceConfig = SyntheticDataConfig(type="synthetic")
    """Where the clips of the reinforcement come from; a synthetic corpus brings those of all other splits too."""
    cold_start: R1OmniDataConfig | None = None
    """Clips with explanations, for the supervised stage."""
    validation: R1OmniDataConfig | None = None
    """Clips that a checkpoint is chosen by."""
    heldout: R1OmniDataConfig | None = None
    """Clips that the evaluation asks."""
    taxonomy: Literal["dfew", "mafw", "mafw_compound", "r1_omni", "ravdess", "ravdess7", "mer", "open"] = "r1_omni"
    """Labels that may occur: those of one corpus, the eleven that R1-Omni joins of DFEW and MAFW, or any."""
    question: str | None = None
    """Question that is asked of every clip; null asks the published one of `question_of`."""
    question_of: Stage = "grpo"
    """Whose published question: the reinforcement's, the cold start's, the demonstration's or the evaluation's."""
    missing_audio: Literal["video_only", "skip"] = "video_only"
    """What becomes of a clip without an audio track: asked without audio, or counted and left out."""
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
    """Frames as they are, padded to a square in grey (R1-Omni trains so), or squashed to one (is judged so)."""
    num_cpus: float = changeable(0.2, gt=0)
    """Ray CPUs of one decoding task."""
    cache_gib: float = changeable(1.0, ge=0)
    """Memory of processed clips kept for the next time they are asked, in GiB."""
    deadline_s: float = changeable(120.0, gt=0)
    """Seconds until the decoding of a clip counts as failed."""

    @model_validator(mode="after")
    def fewest_pixels_are_no_more_than_most(self) -> Self:
        """A frame cannot satisfy both otherwise."""
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"data.min_pixels must be <= data.max_pixels, got {self.min_pixels} > {self.max_pixels}; "
                "lower the one or raise the other"
            )
        return self
