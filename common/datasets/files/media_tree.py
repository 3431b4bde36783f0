"""The media of a corpus, found by walking its folders once."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.datasets.corpus import Dropped
from common.errors import DatasetError
from common.types import Clip

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".flv", ".m4v", ".mpg"})
SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg"})
Key = Callable[[str], str | None]
"""Returns the id in a file name without suffix; None for a name that is no clip's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaTree:
    """Absolute paths by id; several if an id occurs in several places."""

    root: Path
    videos: Mapping[str, tuple[str, ...]]
    frames: Mapping[str, tuple[str, ...]]
    """Folders of frames."""
    sounds: Mapping[str, tuple[str, ...]]
    unreadable: tuple[Dropped, ...] = ()
    """Folders and links that could not be looked into."""

    def clip(self, clip_id: str, *, prefer_frames: bool, frames_fps: float) -> Clip | None:
        """A clip with its sound: a separate file if one exists, else the video's own track.

        Returns None if its pictures are missing, or its sound in a tree without pictures; raises `DatasetError` for
        duplicates.
        """
        sound = self._one(self.sounds, clip_id)
        # what is not taken may stand in several places
        frames = self._one(self.frames, clip_id) if prefer_frames else None
        video = self._one(self.videos, clip_id) if frames is None or sound is None else None
        if video is None and frames is None:
            frames = self._one(self.frames, clip_id)
        pictures = frames or video
        if pictures is None and (self.videos or self.frames or sound is None):
            return None
        return Clip(
            clip_id=clip_id,
            video_path=pictures,
            audio_path=sound or video,
            frames_fps=frames_fps if frames is not None else None,
        )

    def _one(self, paths: Mapping[str, tuple[str, ...]], clip_id: str) -> str | None:
        places = paths.get(clip_id, ())
        if len(places) > 1:
            raise DatasetError(
                f"{self.root}: a clip must stand in one place, got {clip_id!r} at {places[0]} and {places[1]}; set "
                "media_root to the folder of one of them"
            )
        return places[0] if places else None


def index_media(
    root: Path, *, key: Key, has_frame_folders: bool = True, ignored: frozenset[str] = frozenset()
) -> MediaTree:
    """Lists the media of a tree, without hidden files. Unreadable places are listed with their reason.

    Args:
        key: returns the id of a file name, or None.
        has_frame_folders: a folder whose name is an id and that contains an image is a clip.
        ignored: names of folders to skip.
    """
    videos: dict[str, tuple[str, ...]] = {}
    sounds: dict[str, tuple[str, ...]] = {}
    frames: dict[str, tuple[str, ...]] = {}
    unreadable: list[Dropped] = []

    def on_error(path: str, error: OSError) -> None:
        name, detail = os.path.relpath(path, root), f"{path}: {error.strerror}"
        unreadable.append(Dropped(clip_id=name, reason="unreadable", detail=detail))

    for folder, entry in _walk(
        root,
        ignored=ignored,
        is_clip=lambda e: has_frame_folders and _is_clip_folder(e, key),
        on_error=on_error,
    ):
        stem, suffix = os.path.splitext(entry)
        known = videos if suffix.lower() in VIDEO_SUFFIXES else sounds if suffix.lower() in SOUND_SUFFIXES else None
        path = os.path.join(folder, entry)
        if known is None and not suffix and os.path.isdir(path):
            known = frames
        clip_id = key(stem) if known is not None else None
        if known is not None and clip_id is not None:
            known[clip_id] = (*known.get(clip_id, ()), path)
    return MediaTree(root=root, videos=videos, frames=frames, sounds=sounds, unreadable=tuple(unreadable))


def _walk(
    root: Path,
    *,
    ignored: frozenset[str],
    is_clip: Callable[["os.DirEntry[str]"], bool],
    on_error: Callable[[str, OSError], None],
) -> Iterator[tuple[str, str]]:
    """(folder, name) of every file and of every folder that is a clip, sorted by name."""
    waiting, seen = [str(root)], {os.path.realpath(root)}
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            on_error(folder, error)
            continue
        for entry in visible:
            try:
                is_folder = entry.is_dir()
                if is_folder and entry.name in ignored:
                    continue
                is_one = not is_folder or is_clip(entry)
            except OSError as error:
                on_error(entry.path, error)
                continue
            if is_one:
                yield folder, entry.name
                continue
            # a link may lead back
            real = os.path.realpath(entry.path)
            if real not in seen:
                seen.add(real)
                waiting.append(entry.path)


def _is_clip_folder(entry: "os.DirEntry[str]", key: Key) -> bool:
    if key(entry.name) is None:
        return False
    from common.media.frame_folder import is_frame_folder

    return is_frame_folder(entry.path)
