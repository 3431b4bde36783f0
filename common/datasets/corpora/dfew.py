"""DFEW: clips of films with one of seven labels, in five folds (Jiang et al., 2020).

Its lists are `EmoLabel_DataSplit/{train,test}(single-labeled)/set_k.csv` with `video_name,label`, labels from 1, or
the public lists. Media are `part_*/N.mp4`, folders of frames `00001/`, or wav files beside them.
"""

import re
from dataclasses import replace

from common.config.corpora import DfewDataConfig
from common.datasets.assembly import assembled
from common.datasets.corpus import Corpus
from common.datasets.files.media_tree import index_media
from common.datasets.files.split_lists import find_list, read_own_list, read_public_list, shortness
from common.datasets.files.tables import require_folder
from common.labels import DFEW_ORDER

OWN_LISTS = (
    "EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv",
    "{part}(single-labeled)/set_{fold}.csv",
    "dfew_annotation/{part}(single-labeled)/set_{fold}.csv",
    "label/single_{part}set_{fold}.csv",
    "label/single_{part}_set_{fold}.csv",
    "label/single_{part}/set_{fold}.csv",
    "single_{part}set_{fold}.csv",
)
"""Locations of its own lists in the known distributions."""
PUBLIC_LISTS = (
    "annotation/DFEW_set_{fold}_{part}.txt",
    "DFEW_set_{fold}_{part}.txt",
    "saved/data/dfew/org/split0{fold}/{part}.csv",
    "split0{fold}/{part}.csv",
)
"""Locations in DFER-CLIP, MMA-DFER and MAE-DFER, used if its own lists are missing."""
FOLD_SIZES = {1: (9356, 2341), 2: (9356, 2341), 3: (9357, 2340), 4: (9358, 2339), 5: (9361, 2336)}
"""Training and test clips of the published folds."""


def load_dfew(config: DfewDataConfig, *, part: str, split: str) -> Corpus:
    """Reads `train` or `test` of one fold.

    Raises:
        DatasetError: root, list or fold is missing, a line is wrong, an id is repeated, or no clip has media.
    """
    root = require_folder(config.root, key="root")
    path, pattern = find_list(
        require_folder(config.lists or config.root, key="lists"),
        (*OWN_LISTS, *PUBLIC_LISTS),
        fold=config.fold,
        part=part,
        remedy="unpack EmoLabel_DataSplit there or set lists",
    )
    read_list = read_own_list if pattern in OWN_LISTS else read_public_list
    items = read_list(path, classes=DFEW_ORDER, key=dfew_id)
    corpus = assembled(
        items,
        tree=index_media(require_folder(config.media_root or root, key="media_root"), key=dfew_id),
        config=config,
        dataset="dfew",
        taxonomy="dfew",
        split=split,
        fold=config.fold,
        files=(str(path),),
    )
    published = FOLD_SIZES[config.fold][part == "test"]
    return replace(corpus, short_lists=shortness(path, len(items), published=published))


def dfew_id(name: str) -> str | None:
    """The id without leading zeros: lists and folders of frames have them, videos do not."""
    return str(int(name)) if re.fullmatch(r"\d{1,5}", name) else None
