"""Builds a corpus's records from its lists and tables, and from the media that exist."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.config.corpora import Part, TreeConfig
from common.config.questions import QUESTION
from common.datasets.corpus import Corpus, Dropped
from common.datasets.files.media_tree import MediaTree
from common.datasets.files.tables import require_once
from common.errors import DatasetError
from common.types import Clip, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """The known fields of a clip besides its media."""

    place: str
    """File and line that say so."""
    clip_id: str
    label: str
    labels: tuple[str, ...] = ()
    response: str | None = None
    transcript: str | None = None
    caption: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The shared fields of a corpus's records."""

    dataset: str
    taxonomy: str
    split: str
    fold: int | None
    parts: frozenset[Part] = frozenset()
    """That the corpus itself tells apart."""


def assembled(
    items: Sequence[Labelled], *, tree: MediaTree, config: TreeConfig, source: Source, files: tuple[str, ...]
) -> Corpus:
    """Records of the clips that have media; the others have the reason `missing`. Unreadable places are listed.

    Raises:
        DatasetError: an id is repeated, or no clip has media.
    """
    require_once((item.place, item.clip_id) for item in items)
    candidates = [
        (item, tree.clip(item.clip_id, prefer_frames=config.prefer_frames, frames_fps=config.frames_fps))
        for item in items
    ]
    named = replace(source, dataset=config.name or source.dataset)
    records = tuple(_record(item, clip, named) for item, clip in candidates if clip is not None)
    missing = tuple(
        Dropped(
            clip_id=item.clip_id,
            reason="missing",
            detail=f"{item.place}: no media of {item.clip_id!r} below {tree.root}",
        )
        for item, clip in candidates
        if clip is None
    )
    if items and not records:
        blocked = f" ({tree.unreadable[0].detail})" if tree.unreadable else ""
        raise DatasetError(
            f"{tree.root}: must hold the media of the corpus, got none of {len(items)} clips, the first "
            f"{items[0].clip_id!r} of {items[0].place}{blocked}; set media_root to their folder"
        )
    return Corpus(
        records=records,
        dropped=(*missing, *tree.unreadable),
        files=files,
        parts=source.parts,
        listed=frozenset(item.clip_id for item in items) if files else frozenset(),
        on_disk=frozenset({*tree.videos, *tree.frames, *tree.sounds}) if files else frozenset(),
    )


def _record(item: Labelled, clip: Clip, source: Source) -> Record:
    return Record(
        prompt_id=item.clip_id,
        clip=clip,
        question=QUESTION,
        label=item.label,
        dataset=source.dataset,
        split=source.split,
        response=item.response,
        labels=item.labels,
        taxonomy=source.taxonomy,
        transcript=item.transcript,
        fold=source.fold,
        caption=item.caption,
    )
