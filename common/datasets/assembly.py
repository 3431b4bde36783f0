"""Builds a corpus's records from its lists and tables, and from the media that exist."""

from collections.abc import Sequence

from common.config.corpora import TreeConfig
from common.config.questions import QUESTION
from common.datasets.corpus import Corpus, Dropped, Labelled, require_unique
from common.datasets.files.media_tree import MediaTree
from common.errors import DatasetError
from common.types import Record


def assembled(
    items: Sequence[Labelled],
    *,
    tree: MediaTree,
    config: TreeConfig,
    dataset: str,
    taxonomy: str,
    split: str,
    fold: int | None = None,
    files: tuple[str, ...] = (),
) -> Corpus:
    """Records of the clips that have media; the others have the reason `missing`. Unreadable places are listed.

    Args:
        dataset: the name of the corpus, if the configuration has none.
        fold: the fold, whose lists separate training from test; None for all clips.
        files: the lists and tables of the items; empty if the tree is the only source.

    Raises:
        DatasetError: an id is repeated, or no clip has media.
    """
    require_unique((item.place, item.clip_id) for item in items)
    records: list[Record] = []
    dropped: list[Dropped] = []
    for item in items:
        clip = tree.clip(item.clip_id, prefer_frames=config.prefer_frames, frames_fps=config.frames_fps)
        if clip is None:
            detail = f"{item.place}: no media of {item.clip_id!r} below {tree.root}"
            dropped.append(Dropped(clip_id=item.clip_id, reason="missing", detail=detail))
            continue
        record = Record(
            prompt_id=item.clip_id,
            clip=clip,
            question=QUESTION,
            label=item.label,
            dataset=config.name or dataset,
            split=split,
            response=item.response,
            labels=item.labels,
            taxonomy=taxonomy,
            transcript=item.transcript,
            fold=fold,
            caption=item.caption,
        )
        records.append(record)
    if items and not records:
        blocked = f" ({tree.unreadable[0].detail})" if tree.unreadable else ""
        raise DatasetError(
            f"{tree.root}: must hold the media of the corpus, got none of {len(items)} clips, the first "
            f"{items[0].clip_id!r} of {items[0].place}{blocked}; set media_root to their folder"
        )
    return Corpus(
        records=tuple(records),
        dropped=(*dropped, *tree.unreadable),
        files=files,
        parts=frozenset() if fold is None else frozenset({"train", "test"}),
        listed=frozenset(item.clip_id for item in items) if files else frozenset(),
        on_disk=frozenset({*tree.videos, *tree.frames, *tree.sounds}) if files else frozenset(),
    )
