"""Reads any corpus: from its configuration to records, with a reason for each clip that is left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.config.corpora import (
    AnyCorpusConfig,
    DfewDataConfig,
    EmerDataConfig,
    MafwDataConfig,
    MixDataConfig,
    Part,
    R1OmniDataConfig,
    R1OmniListDataConfig,
    RavdessDataConfig,
    SingleSourceConfig,
    TableDataConfig,
    TreeConfig,
)
from common.config.questions import QUESTION
from common.datasets.corpora.dfew import load_dfew
from common.datasets.corpora.emer import load_emer
from common.datasets.corpora.mafw import load_mafw
from common.datasets.corpora.r1_omni import load_r1_omni
from common.datasets.corpora.r1_omni_list import load_r1_omni_list
from common.datasets.corpora.ravdess import load_ravdess
from common.datasets.corpora.table import load_table
from common.datasets.corpus import Corpus, Dropped, carved, require_unique
from common.datasets.explanations import explained
from common.datasets.files.tables import resolved
from common.datasets.files.transcripts import Transcripts, read_transcripts
from common.errors import DatasetError
from common.labels import TAXONOMIES, normalised
from common.prompts.phrasing import question_of
from common.types import Record

PARTS: dict[str, Part] = {"validation": "validation", "heldout": "test"}
"""Default part of a stage; the training clips for other stages."""
REMEDIES = {
    "outside-taxonomy": "choose another taxonomy",
    "no-video": "choose another modality",
    "no-audio": "choose another modality",
    "no-label": "name the column or table of the labels",
    "no-reason": "name the table of the reasons, or let a model write them with make-cold-start",
    "no-split": "write the split into its column, or leave split_column out",
    "other-split": "call splits train, validation or test",
    "song": "set song to true",
    "calm": "set calm to true",
}
"""Remedies by reason, for a corpus without usable clips."""


def read_corpus(
    source: AnyCorpusConfig,
    *,
    split: str,
    question: str | None = None,
    taxonomy: str = "open",
    shows_transcripts: bool = False,
) -> Corpus:
    """Reads a corpus.

    Args:
        split: the stage that uses the clips: `train`, `cold_start`, `validation` or `heldout`.
        question: the question of every clip; None for the paper's.
        taxonomy: a key of `common.labels.TAXONOMIES`; labels become its classes.
        shows_transcripts: puts the transcript before the question.

    Raises:
        DatasetError: something is missing or malformed, a label is outside the taxonomy, or an id is repeated.
    """
    if isinstance(source, MixDataConfig):
        return _read_mix(
            source, split=split, question=question, taxonomy=taxonomy, shows_transcripts=shows_transcripts
        )
    part = source.part or PARTS.get(split, "train")
    try:
        corpus = _load(source, part=part, split=split)
        records = carved(
            corpus.records,
            part=part,
            share=source.validation_share,
            seed=source.validation_seed,
            parts=corpus.parts,
            subject=_place(source),
        )
        transcripts = read_transcripts(source.transcripts)
        folded, outside = _folded(records, source, taxonomy=taxonomy)
        kept, without_track = _of_modality(_with_transcripts(folded, transcripts), source)
    except DatasetError as error:
        # the messages of R1-Omni's files name the file themselves
        if isinstance(source, R1OmniDataConfig):
            raise
        raise DatasetError(f"{source.type}: {error}") from error
    except OSError as error:
        raise DatasetError(
            f"{source.type}: {error.filename or _place(source)} must be readable, got {error.strerror}; correct "
            "the path or its permissions"
        ) from error
    dropped = (*corpus.dropped, *outside, *without_track)
    if not kept:
        raise DatasetError(_emptiness(source, part, dropped))
    presented = tuple(_presented(record, source, question, shows_transcripts) for record in kept)
    return replace(corpus, records=presented, dropped=dropped, files=(*corpus.files, *transcripts.files))


def _load(source: SingleSourceConfig, *, part: Part, split: str) -> Corpus:
    """The records of a part; the training records for validation if the corpus has no such part."""
    listed = "test" if part == "test" else "train"
    match source:
        case R1OmniDataConfig():
            records = load_r1_omni(source.path, media_root=source.media_root, question=None, split=split)
            named = tuple(replace(r, dataset=source.name or r.dataset) for r in records)
            return Corpus(records=named, files=(str(resolved(source.path)),))
        case R1OmniListDataConfig():
            return load_r1_omni_list(source, split=split)
        case DfewDataConfig():
            return load_dfew(source, part=listed, split=split)
        case MafwDataConfig():
            return load_mafw(source, part=listed, split=split)
        case RavdessDataConfig():
            return load_ravdess(source, part=listed, split=split)
        case EmerDataConfig():
            return load_emer(source, split=split)
        case TableDataConfig():
            return load_table(source, part=part, split=split)


def _read_mix(source: MixDataConfig, **settings: Any) -> Corpus:
    corpora = [read_corpus(single, **settings) for single in source.sources]
    # ids are unique only within a corpus
    records = tuple(
        replace(r, prompt_id=f"{r.dataset}/{r.prompt_id}") for corpus in corpora for r in corpus.records
    )
    require_unique((("mix", r.prompt_id) for r in records), remedy="give each of its sources a different name")
    return Corpus(
        records=records,
        dropped=tuple(d for corpus in corpora for d in corpus.dropped),
        files=tuple(file for corpus in corpora for file in corpus.files),
        short_lists=tuple(line for corpus in corpora for line in corpus.short_lists),
        parts=frozenset(part for corpus in corpora for part in corpus.parts),
    )


def _folded(
    records: Sequence[Record], source: SingleSourceConfig, *, taxonomy: str
) -> tuple[list[Record], list[Dropped]]:
    """Records whose labels are classes of the taxonomy; the others are refused or dropped."""
    kept: list[Record] = []
    dropped: list[Dropped] = []
    classes = ", ".join(TAXONOMIES[taxonomy] or ())
    for record in records:
        folded = in_taxonomy(record, taxonomy)
        if folded is not None:
            kept.append(folded)
            continue
        if source.outside_taxonomy == "refuse":
            raise DatasetError(
                f"{_place(source)}: a label must be in data.taxonomy ({classes}), got {record.label!r} of "
                f"{record.prompt_id!r}; correct it, choose another taxonomy, or set outside_taxonomy to drop"
            )
        detail = f"{record.label!r} is none of {classes}"
        dropped.append(Dropped(clip_id=record.prompt_id, reason="outside-taxonomy", detail=detail))
    return kept, dropped


def in_taxonomy(record: Record, taxonomy: str) -> Record | None:
    """A record with its labels as classes of the taxonomy; None if the taxonomy has none of them."""
    classes = TAXONOMIES[taxonomy]
    if classes is None:
        return record
    if record.label in classes and not record.labels:
        return replace(record, taxonomy=taxonomy)
    folded = [normalised(label, taxonomy) for label in record.labels or (record.label,)]
    known = tuple(dict.fromkeys(label for label in folded if label is not None))
    if not known:
        return None
    return replace(
        record,
        label=record.label if record.label in classes else known[0],
        labels=known if len(known) > 1 else (),
        taxonomy=taxonomy,
    )


def _with_transcripts(records: Sequence[Record], transcripts: Transcripts) -> list[Record]:
    # the transcript file has precedence over the corpus
    pairs = [(record, transcripts.of(record.prompt_id)) for record in records]
    if transcripts.files and records and not any(text for _, text in pairs):
        raise DatasetError(
            f"{transcripts.files[0]}: transcripts must name the clips by id, got none of {len(records)}, the first "
            f"{records[0].prompt_id!r}; correct the names"
        )
    return [replace(record, transcript=text) if text else record for record, text in pairs]


def _of_modality(records: Sequence[Record], source: SingleSourceConfig) -> tuple[list[Record], list[Dropped]]:
    """The clips with the requested modality; clips without it are dropped."""
    kept: list[Record] = []
    dropped: list[Dropped] = []
    for record in records:
        clip = record.clip
        if source.modality == "video":
            clip = replace(clip, audio_path=None)
        elif source.modality == "audio":
            clip = replace(clip, video_path=None, frames_fps=None)
        if clip.video_path is None and clip.audio_path is None:
            detail = f"{record.prompt_id!r} has no {source.modality}"
            dropped.append(Dropped(clip_id=record.prompt_id, reason=f"no-{source.modality}", detail=detail))
        else:
            kept.append(replace(record, clip=clip))
    return kept, dropped


def _presented(record: Record, source: SingleSourceConfig, question: str | None, shows_transcripts: bool) -> Record:
    if isinstance(source, TableDataConfig) and source.question_column and record.question != QUESTION:
        question = record.question
    transcript = record.transcript if shows_transcripts else None
    response = record.response
    if response is not None and isinstance(source, EmerDataConfig):
        # the label may have changed with the taxonomy
        response = explained(response, label=record.label)
    return replace(
        record, question=question_of(record.clip, question=question, transcript=transcript), response=response
    )


def _place(source: SingleSourceConfig) -> str:
    return str(resolved(source.root if isinstance(source, TreeConfig) else source.path))


def _emptiness(source: SingleSourceConfig, part: Part, dropped: Sequence[Dropped]) -> str:
    reasons = Counter(d.reason for d in dropped).most_common()
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    first = f", the first: {dropped[0].detail}" if dropped else ""
    remedy = REMEDIES.get(reasons[0][0], "correct what is named") if reasons else "choose another part or fold"
    return f"{source.type}: {_place(source)} must have clips of the part {part}, got {counts}{first}; {remedy}"
