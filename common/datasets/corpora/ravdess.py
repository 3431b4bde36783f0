"""RAVDESS: 24 actors speak two sentences in eight emotions (Livingstone & Russo, 2018; Zenodo 1188976).

A file is called `MM-VV-EE-II-SS-RR-AA`: modality (01 both, 02 video, 03 audio), channel (01 speech, 02 song),
emotion, intensity, sentence, repetition, actor. There are no lists: the tree is the corpus.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common.config.corpora import RavdessDataConfig
from common.datasets.assembly import Labelled, Source, assembled
from common.datasets.corpus import Corpus, Dropped
from common.datasets.files.media_tree import MediaTree, index_media
from common.datasets.files.tables import require_folder
from common.errors import DatasetError
from common.labels import RAVDESS_ORDER

SENTENCES = ("Kids are talking by the door.", "Dogs are sitting by the door.")
CODE = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
NUM_FOLDS, ACTORS_PER_FOLD = 6, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """The code in a clip's name, without the modality."""

    clip_id: str
    """The code without the modality: `01-06-02-01-01-12`."""
    is_song: bool
    emotion: str
    is_strong: bool
    sentence: str
    actor: int

    @property
    def fold(self) -> int:
        """The fold that tests this actor: fold k has actors 4k-3 to 4k."""
        return (self.actor - 1) // ACTORS_PER_FOLD + 1


def load_ravdess(config: RavdessDataConfig, *, part: str, split: str) -> Corpus:
    """Reads `train` or `test` of one fold, or without a fold all actors.

    Raises:
        DatasetError: the root is missing or has no such file, or a clip is repeated.
    """
    root = require_folder(config.media_root or config.root, key="root")
    both = index_media(root, key=lambda n: _clip_id(n, "01"), has_frame_folders=False)
    video = index_media(root, key=lambda n: _clip_id(n, "02"), has_frame_folders=False)
    audio = index_media(root, key=lambda n: _clip_id(n, "03"), has_frame_folders=False)
    tree, unpaired = _paired(root, both, video, audio, config)
    ids = sorted({*tree.videos, *tree.sounds})
    if not ids and not unpaired:
        raise DatasetError(
            f"{root}: must hold files called as 01-01-06-01-02-01-12.mp4, got none; unpack the archives there"
        )
    items: list[Labelled] = []
    dropped = [*unpaired]
    for clip_id in ids:
        code = parse_code(f"01-{clip_id}")
        assert code is not None
        reason = _refusal(code, config)
        if reason is not None:
            dropped.append(Dropped(clip_id=clip_id, reason=reason, detail=f"{root}: {clip_id}"))
        elif config.fold is None or (code.fold == config.fold) == (part == "test"):
            items.append(Labelled(place=str(root), clip_id=clip_id, label=code.emotion, transcript=code.sentence))
    dropped += [
        Dropped(clip_id=name, reason="not-a-code", detail=f"{root}: no such emotion, sentence or actor")
        for name in _strange(root)
    ]
    source = Source(
        dataset="ravdess",
        taxonomy="ravdess" if config.calm else "ravdess7",
        split=split,
        fold=config.fold,
        parts=frozenset() if config.fold is None else frozenset({"train", "test"}),
    )
    corpus = assembled(items, tree=tree, config=config, source=source, files=())
    return replace(corpus, dropped=(*dropped, *corpus.dropped))


def parse_code(name: str) -> Code | None:
    """The code in a file's name; None for another name, or the code of strong neutral, which does not exist."""
    match = CODE.fullmatch(name)
    if match is None or (match[3] == "01" and match[4] == "02"):
        return None
    return Code(
        clip_id=name[3:],
        is_song=match[2] == "02",
        emotion=RAVDESS_ORDER[int(match[3]) - 1],
        is_strong=match[4] == "02",
        sentence=SENTENCES[int(match[5]) - 1],
        actor=int(match[7]),
    )


def _clip_id(name: str, modality: str) -> str | None:
    code = parse_code(name)
    return code.clip_id if code is not None and name.startswith(modality) else None


def _paired(
    root: Path, both: MediaTree, video: MediaTree, audio: MediaTree, config: RavdessDataConfig
) -> tuple[MediaTree, list[Dropped]]:
    """One place per clip and modality: 01, or the silent 02 with its 03; a requested modality alone."""
    silent = {k: v for k, v in video.videos.items() if k not in both.videos}
    voices = {k: v for k, v in audio.sounds.items() if k not in both.videos}
    # each of the three walks found the same that cannot be read
    if config.modality == "video":
        return replace(both, videos={**both.videos, **silent}, sounds={}), []
    if config.modality == "audio":
        tracks = {k: v for k, v in both.videos.items() if k not in audio.sounds}
        return replace(both, videos={}, sounds={**tracks, **audio.sounds}), []
    pairs = {*silent} & {*voices}
    if not both.videos and not pairs and (silent or voices):
        lacking, other = ("pictures", "video") if silent else ("sound", "audio")
        raise DatasetError(
            f"{root}: a clip must have pictures and sound, got {len(silent or voices)} with {lacking} alone; set "
            f"modality to {other} or unpack the other archive, too"
        )
    alone = sorted({*silent} ^ {*voices})
    dropped = [
        Dropped(
            clip_id=clip_id,
            reason="no-pair",
            detail=f"{(silent.get(clip_id) or voices[clip_id])[0]}: no file of the other modality",
        )
        for clip_id in alone
    ]
    return replace(
        both, videos={**both.videos, **{k: silent[k] for k in pairs}}, sounds={k: voices[k] for k in pairs}
    ), dropped


def _refusal(code: Code, config: RavdessDataConfig) -> str | None:
    if code.is_song and not config.song:
        return "song"
    return "calm" if code.emotion == "calm" and not config.calm else None


def _strange(root: Path) -> Iterator[str]:
    """Media whose names resemble codes."""
    looks = index_media(
        root,
        key=lambda n: n if re.fullmatch(r"\d\d(-\d\d){6}", n) and parse_code(n) is None else None,
        has_frame_folders=False,
    )
    yield from sorted({*looks.videos, *looks.sounds})
