"""RAVDESS: 24 actors speak two sentences in eight emotions (Livingstone & Russo, 2018; Zenodo 1188976).

A file is called `MM-VV-EE-II-SS-RR-AA`: modality (01 both, 02 video, 03 audio), channel (01 speech, 02 song),
emotion, intensity, sentence, repetition, actor. There are no lists: the tree is the corpus.
"""

import re
from dataclasses import dataclass, replace

from common.config.corpora import RavdessDataConfig
from common.datasets.assembly import assembled
from common.datasets.corpus import Corpus, Dropped, Labelled
from common.datasets.files.media_tree import MediaTree, Paths, index_media
from common.datasets.files.tables import require_folder
from common.errors import DatasetError
from common.labels import RAVDESS_ORDER

SENTENCES = ("Kids are talking by the door.", "Dogs are sitting by the door.")
CODE = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
LOOKS_LIKE_CODE = re.compile(r"\d\d(-\d\d){6}")
ACTORS_PER_FOLD = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """The code in a clip's name."""

    clip_id: str
    """The code without the modality: `01-06-02-01-01-12`."""
    is_song: bool
    emotion: str
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
    names = index_media(root, key=lambda n: n if LOOKS_LIKE_CODE.fullmatch(n) else None, has_frame_folders=False)
    tree, dropped = _paired(names, config)
    ids = sorted({*tree.videos, *tree.sounds})
    if not ids and not dropped:
        raise DatasetError(
            f"{root}: must hold files called as 01-01-06-01-02-01-12.mp4, got none; unpack the archives there"
        )
    items: list[Labelled] = []
    for clip_id in ids:
        code = parse_code(f"01-{clip_id}")
        assert code is not None
        detail = f"{root}: {clip_id}"
        if code.is_song and not config.song:
            dropped.append(Dropped(clip_id=clip_id, reason="song", detail=detail))
        elif code.emotion == "calm" and not config.calm:
            dropped.append(Dropped(clip_id=clip_id, reason="calm", detail=detail))
        elif config.fold is None or (code.fold == config.fold) == (part == "test"):
            items.append(Labelled(place=str(root), clip_id=clip_id, label=code.emotion, transcript=code.sentence))
    dropped += [
        Dropped(clip_id=name, reason="not-a-code", detail=f"{root}: no such emotion, sentence or actor")
        for name in sorted({*names.videos, *names.sounds})
        if parse_code(name) is None
    ]
    corpus = assembled(
        items,
        tree=tree,
        config=config,
        dataset="ravdess",
        taxonomy="ravdess" if config.calm else "ravdess7",
        split=split,
        fold=config.fold,
    )
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
        sentence=SENTENCES[int(match[5]) - 1],
        actor=int(match[7]),
    )


def _paired(names: MediaTree, config: RavdessDataConfig) -> tuple[MediaTree, list[Dropped]]:
    """The media by clip: the files of both modalities, and silent videos with their sounds.

    Returns the clips without a file of the other modality, too; a requested modality needs no other.
    """
    both = _by_clip(names.videos, "01")
    videos, sounds = _by_clip(names.videos, "02"), _by_clip(names.sounds, "03")
    silent = {k: v for k, v in videos.items() if k not in both}
    voices = {k: v for k, v in sounds.items() if k not in both}
    if config.modality == "video":
        return replace(names, videos={**both, **silent}, sounds={}), []
    if config.modality == "audio":
        # a sound file has precedence over the track of a video
        return replace(names, videos={}, sounds={**both, **sounds}), []
    pairs = {*silent} & {*voices}
    if not both and not pairs and (silent or voices):
        track, modality = ("pictures", "video") if silent else ("sound", "audio")
        raise DatasetError(
            f"{names.root}: a clip must have pictures and sound, got {len(silent or voices)} with {track} alone; "
            f"set modality to {modality} or unpack the other archive, too"
        )
    dropped = [
        Dropped(
            clip_id=clip_id,
            reason="no-pair",
            detail=f"{(silent.get(clip_id) or voices[clip_id])[0]}: no file of the other modality",
        )
        for clip_id in sorted({*silent} ^ {*voices})
    ]
    paired = {**both, **{k: silent[k] for k in pairs}}
    return replace(names, videos=paired, sounds={k: voices[k] for k in pairs}), dropped


def _by_clip(paths: Paths, modality: str) -> dict[str, tuple[str, ...]]:
    codes = {name: parse_code(name) for name in paths if name.startswith(modality)}
    return {code.clip_id: paths[name] for name, code in codes.items() if code is not None}
