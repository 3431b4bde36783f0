"""Configuration of the corpora that clips are read from, one model each."""

from typing import Annotated, Literal

from pydantic import Field

from common.config.base import Config, changeable
from common.types import Modality

Part = Literal["train", "validation", "test"]


class SourceConfig(Config):
    """Options of every corpus."""

    name: str | None = None
    """Name of the corpus in records and metrics; null uses its default name."""
    part: Part | None = None
    """Which clips are taken; null takes test for data.heldout, validation for data.validation, train otherwise."""
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training clips that is set aside for validation, chosen by a hash of their ids."""
    validation_seed: int = 0
    """Seed of that hash."""
    modality: Literal["both"] | Modality = "both"
    """Tracks of each clip in the prompt: both, the video alone or the audio alone."""
    outside_taxonomy: Literal["refuse", "drop"] = "refuse"
    """Action for a clip whose label is not in data.taxonomy: an error, or count it and leave it out."""
    transcripts: str | None = None
    """File or folder of transcripts: jsonl or csv of name and text, or a folder of srt files."""


class R1OmniDataConfig(SourceConfig):
    """A corpus in R1-Omni's JSON: a list of `{"video", "conversations"}` records."""

    type: Literal["r1_omni"]
    """Chooses this source."""
    path: str
    """JSON file of the records."""
    media_root: str | None = changeable(None)
    """Folder that the records' paths start from; null takes the JSON file's folder."""


class R1OmniListDataConfig(SourceConfig):
    """Several files of R1-Omni's JSON in its YAML list, each with its sampling."""

    type: Literal["r1_omni_list"]
    """Chooses this source."""
    path: str
    """YAML file of `datasets: [{json_path, sampling_strategy}]`."""
    media_root: str | None = changeable(None)
    """Folder that the records' paths start from; null takes each JSON file's folder."""
    sampling_seed: int = 0
    """Seed of the strategies random:N and random:P%."""


class TreeConfig(SourceConfig):
    """A corpus whose media are in a tree of folders."""

    root: str
    """Folder that the corpus was unpacked into."""
    media_root: str | None = changeable(None)
    """Folder of its media, searched whole; null takes the root."""
    frames_fps: float = Field(default=24.0, gt=0)
    """Frames per second of clips that are folders of frames, which do not say it themselves."""
    prefer_frames: bool = False
    """Use the folder of frames of a clip that has both a video and a folder."""


class DfewDataConfig(TreeConfig):
    """DFEW: 11,697 clips of films with one of seven labels, in five folds."""

    type: Literal["dfew"]
    """Chooses this source."""
    fold: int = Field(default=1, ge=1, le=5)
    """Fold of the cross-validation."""
    lists: str | None = None
    """Folder of the split lists; null takes the root."""


class MafwDataConfig(TreeConfig):
    """MAFW: 9,172 clips with one of eleven labels, 10,045 with compound ones, in five folds."""

    type: Literal["mafw"]
    """Chooses this source."""
    fold: int | None = Field(default=1, ge=1, le=5)
    """Fold of the cross-validation; null takes all clips of the workbook of labels."""
    labels: Literal["single", "compound"] = "single"
    """One label to a clip, or the compound ones."""
    captions: bool = False
    """Read the lists with captions."""
    lists: str | None = None
    """Folder of the split lists and of the workbooks; null takes the root."""


class RavdessDataConfig(TreeConfig):
    """RAVDESS: 24 actors who speak two sentences in eight emotions."""

    type: Literal["ravdess"]
    """Chooses this source."""
    fold: int | None = Field(default=None, ge=1, le=6)
    """Fold of the six-fold split by actors, fold k testing 4k-3 to 4k; null takes all actors in every part."""
    song: bool = False
    """Include sung clips."""
    calm: bool = True
    """Keep calm as a class; its clips are left out otherwise."""


class EmerDataConfig(TreeConfig):
    """EMER, OV-MERD and the MER challenges: clips with reasons, open labels or one of six classes."""

    type: Literal["emer"]
    """Chooses this source."""
    variant: Literal["emer_v1", "emer_v2", "ovmerd", "mercaptionplus", "mer2023", "mer2024", "mer2025"] = "ovmerd"
    """Variant of the corpus."""
    subset: Literal["train", "test1", "test2", "test3"] = "train"
    """Folder of MER2023 that is read."""
    labels_file: str | None = None
    """Table of name and labels; null takes the variant's."""
    reasons_file: str | None = None
    """Table of name and reason; null takes the variant's."""
    subtitles_file: str | None = None
    """Table of name and transcript; null takes the variant's table if it exists."""
    language: Literal["english", "chinese"] = "english"
    """Language of explanations and transcripts, if both languages exist."""


class TableDataConfig(SourceConfig):
    """A table with a row for each clip: JSONL, CSV, Parquet or a folder of Hugging Face datasets."""

    type: Literal["table"]
    """Chooses this source."""
    path: str
    """The file, or the folder."""
    media_root: str | None = changeable(None)
    """Folder that the paths start from; null takes the file's."""
    taxonomy: str = "open"
    """Taxonomy of the labels, such as dfew; open accepts any label."""
    id_column: str | None = None
    """Column of the ids; null takes the path of the clip."""
    video_column: str | None = "video"
    """Column of the paths of videos; null for none."""
    audio_column: str | None = None
    """Column of the paths of sounds; null for the videos' own tracks."""
    label_column: str = "label"
    """Column of the labels: a text, or a list where a clip has several."""
    response_column: str | None = None
    """Column of explanations in full."""
    transcript_column: str | None = None
    """Column of transcripts."""
    caption_column: str | None = None
    """Column of captions."""
    question_column: str | None = None
    """Column of questions that replace the run's."""
    split_column: str | None = None
    """Column that says which part a row is of."""
    label_names: tuple[str, ...] = ()
    """Names of labels that are given as numbers from 0."""


SingleSource = (
    R1OmniDataConfig
    | R1OmniListDataConfig
    | DfewDataConfig
    | MafwDataConfig
    | RavdessDataConfig
    | EmerDataConfig
    | TableDataConfig
)
SingleSourceConfig = Annotated[SingleSource, Field(discriminator="type")]


class MixDataConfig(Config):
    """Several corpora as one."""

    type: Literal["mix"]
    """Chooses this source."""
    sources: tuple[SingleSourceConfig, ...] = Field(min_length=1)
    """The corpora, whose ids get the name of theirs before them."""


AnyCorpus = SingleSource | MixDataConfig
AnyCorpusConfig = Annotated[AnyCorpus, Field(discriminator="type")]
