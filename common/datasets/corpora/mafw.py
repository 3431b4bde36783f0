"""MAFW: clips with one of eleven labels or compound labels, in five folds, some with captions (Liu et al., 2022).

Its lists are `Train & Test Set/{single,multi}/{no,with}_caption/set_k/{train,test}.txt` with lines `00025.mp4 anger
CAPTION`; `Labels/{single,multi}-set.xlsx` has all clips. The public lists, with labels from 0, are read, too. Media
are `data/clips/00025.mp4`, folders of frames, or wav files beside them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from common.config.corpora import MafwDataConfig
from common.datasets.assembly import assembled
from common.datasets.corpus import Corpus, Dropped, Labelled
from common.datasets.files.media_tree import index_media
from common.datasets.files.split_lists import class_of, find_list, numbered, read_public_list, shortness, stem_of
from common.datasets.files.tables import read_lines, require_folder
from common.datasets.files.workbook import read_sheet
from common.errors import DatasetError
from common.labels import MAFW_ORDER

_NOUNS = "anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness disappointment"
ADJECTIVES: Mapping[str, str] = dict(zip(_NOUNS.split(), MAFW_ORDER, strict=True))
"""Class by the corpus's noun; both count in this order, the corpus from 1, the public lists from 0."""
LABEL_COLUMN = 12
"""Column of the labels in the workbooks, from 0."""
PUBLIC_LISTS = (
    "annotation/MAFW_set_{fold}_{part}.txt",
    "annotation/MAFW_set_{fold}_{part}_faces.txt",
    "MAFW_set_{fold}_{part}.txt",
    "MAFW_set_{fold}_{part}_faces.txt",
    "saved/data/mafw/audio_visual/single/split0{fold}/{part}.csv",
    "single/split0{fold}/{part}.csv",
    "split0{fold}/{part}.csv",
)
"""Locations in DFER-CLIP, MMA-DFER, MAE-DFER and HiCMAE: single labels without captions."""
FOLD_SIZES = {1: (7333, 1839), 2: (7335, 1837), 3: (7339, 1833), 4: (7340, 1832), 5: (7341, 1831)}
"""Training and test clips of the published folds, single labels."""


def load_mafw(config: MafwDataConfig, *, part: str, split: str) -> Corpus:
    """Reads `train` or `test` of one fold, or without a fold every clip of the workbook.

    Raises:
        DatasetError: root, list, workbook or fold is missing, a line is wrong, an id is repeated, or no clip has
            media.
    """
    root = require_folder(config.root, key="root")
    path, is_public = _find(require_folder(config.lists or config.root, key="lists"), config, part)
    entries: list[Labelled | Dropped] = []
    if path.suffix == ".xlsx":
        entries += _workbook(path, config)
    elif is_public:
        entries += read_public_list(path, classes=MAFW_ORDER, key=mafw_id)
    else:
        for line, text in read_lines(path):
            name, label, caption, *_ = (*text.split(maxsplit=2), "", "")
            entries.append(_labelled(f"{path}:{line}", name, label, config, caption=caption or None))
    items = [entry for entry in entries if isinstance(entry, Labelled)]
    corpus = assembled(
        items,
        tree=index_media(require_folder(config.media_root or root, key="media_root"), key=mafw_id),
        config=config,
        dataset="mafw",
        taxonomy="mafw" if config.labels == "single" else "mafw_compound",
        split=split,
        fold=config.fold,
        files=(str(path),),
    )
    sizes = fold_sizes(config)
    return replace(
        corpus,
        dropped=(*corpus.dropped, *(entry for entry in entries if isinstance(entry, Dropped))),
        short_lists=shortness(path, len(items), published=sizes[part == "test"]) if sizes else (),
    )


def fold_sizes(config: MafwDataConfig) -> tuple[int, int] | None:
    """Published numbers of training and test clips of a fold; None if the paper has none for the list."""
    if config.fold is None or config.labels != "single" or config.captions:
        return None
    return FOLD_SIZES[config.fold]


def mafw_id(name: str) -> str | None:
    """The id with five digits: a workbook may have removed zeros."""
    return name.zfill(5) if re.fullmatch(r"\d{1,5}", name) else None


def compound(text: str, *, place: str) -> tuple[str, ...]:
    """The adjectives of `sadness_surprise` or `6,7`, in the corpus's numbering; raises `DatasetError` for an
    unknown part.
    """
    parts = [part.strip().lower() for part in re.split(r"[_,+&]", text) if part.strip()]
    classes = [
        class_of(part, classes=MAFW_ORDER, first=1, place=place)
        if re.fullmatch(r"[\d.]+", part)
        else ADJECTIVES.get(part, "")
        for part in parts
    ]
    if not classes or not all(classes):
        raise DatasetError(
            f"{place}: a label must be made of {', '.join(ADJECTIVES)}, got {text!r}; correct the line or name "
            "another list"
        )
    return tuple(sorted(set(classes), key=MAFW_ORDER.index))


def _find(lists: Path, config: MafwDataConfig, part: str) -> tuple[Path, bool]:
    """The list or workbook, and True for a public list."""
    kind = "single" if config.labels == "single" else "multi"
    if config.fold is None:
        for path in (lists / "Labels" / f"{kind}-set.xlsx", lists / f"{kind}-set.xlsx"):
            if path.is_file():
                return path, False
        raise DatasetError(
            f"{lists}: must hold Labels/{kind}-set.xlsx for all clips, got none; unpack Labels there, set lists, "
            "or choose a fold"
        )
    captions = "with_caption" if config.captions else "no_caption"
    patterns = [f"{folder}{kind}/{captions}/set_{{fold}}/{{part}}.txt" for folder in ("Train & Test Set/", "")]
    has_public = config.labels == "single" and not config.captions
    path, pattern = find_list(
        lists,
        (*patterns, *(PUBLIC_LISTS if has_public else ())),
        fold=config.fold,
        part=part,
        remedy="unpack 'Train & Test Set' there or set lists",
    )
    return path, pattern in PUBLIC_LISTS


def _workbook(path: Path, config: MafwDataConfig) -> Iterator[Labelled | Dropped]:
    # titles and headers precede the first clip; every later row with several cells is a clip
    has_begun = False
    for row, cells in read_sheet(path):
        name = re.sub(r"\.0+$", "", cells.get(0, ""))
        place, stem = f"{path}:{row}", stem_of(name)
        is_id, is_title = mafw_id(stem) is not None, len(cells) == 1
        if not has_begun and (not is_id or (is_title and stem == name)):
            continue
        if is_title:
            # a title may be a number, the name of a file is a clip's
            reason = "no-label" if is_id else "not-a-clip"
            key = name or next(iter(cells.values()))
            yield Dropped(clip_id=key, reason=reason, detail=f"{place}: holds nothing but {key!r}")
            continue
        has_begun = True
        if LABEL_COLUMN not in cells:
            raise DatasetError(
                f"{place}: a row must have its label in column {LABEL_COLUMN + 1}, got {len(cells)} cells; correct "
                "the row"
            )
        yield _labelled(place, name, cells[LABEL_COLUMN], config)
    if not has_begun:
        raise DatasetError(f"{path}: a workbook must have a row for each clip, got none; unpack it again")


def _labelled(place: str, name: str, label: str, config: MafwDataConfig, *, caption: str | None = None) -> Labelled:
    labels = compound(label, place=place)
    if config.labels == "single" and len(labels) > 1:
        raise DatasetError(f"{place}: a label must be one class, got {label!r}; set labels to compound")
    return Labelled(
        place=place,
        clip_id=numbered(name, place=place, key=mafw_id),
        label="_".join(labels),
        labels=labels if len(labels) > 1 else (),
        caption=caption,
    )
