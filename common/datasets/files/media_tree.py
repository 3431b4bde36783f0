"""The media of a corpus, collected in one walk through its folders."""

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
Paths = Mapping[str, tuple[str, ...]]
"""Absolute paths by id; several if an id occurs in several places."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaTree:
    """The media below a folder."""

    root: Path
    videos: Paths
    frames: Paths
    """Folders of frames."""
    sounds: Paths
    unreadable: tuple[Dropped, ...] = ()
    """Folders and links that cannot be read."""

    def clip(self, clip_id: str, *, prefer_frames: bool, frames_fps: float) -> Clip | None:
        """A clip with its sound: a separate file if one exists, else the video's own track.

        Returns None if its pictures are missing, or its sound in a tree without pictures; raises `DatasetError` for
        duplicates.
        """
        sound = self._only(self.sounds, clip_id)
        # duplicates matter only among the files that are used
        frames = self._only(self.frames, clip_id) if prefer_frames else None
        video = self._only(self.videos, clip_id) if frames is None or sound is None else None
        if video is None and frames is None:
            frames = self._only(self.frames, clip_id)
        pictures = frames or video
        if pictures is None and (self.videos or self.frames or sound is None):
            return None
        return Clip(
            clip_id=clip_id,
            video_path=pictures,
            audio_path=sound or video,
            frames_fps=frames_fps if frames is not None else None,
        )

    def _only(self, paths: Paths, clip_id: str) -> str | None:
        places = paths.get(clip_id, ())
        if len(places) > 1:
            raise DatasetError(
                f"{self.root}: a clip must be in one place, got {clip_id!r} at {places[0]} and {places[1]}; set "
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
    from common.media.frame_folder import is_frame_folder

    videos: dict[str, tuple[str, ...]] = {}
    sounds: dict[str, tuple[str, ...]] = {}
    frames: dict[str, tuple[str, ...]] = {}
    by_suffix = dict.fromkeys(VIDEO_SUFFIXES, videos) | dict.fromkeys(SOUND_SUFFIXES, sounds)
    unreadable: list[Dropped] = []

    def on_error(path: str, error: OSError) -> None:
        name, detail = os.path.relpath(path, root), f"{path}: {error.strerror}"
        unreadable.append(Dropped(clip_id=name, reason="unreadable", detail=detail))

    def is_clip_folder(entry: "os.DirEntry[str]") -> bool:
        return has_frame_folders and key(entry.name) is not None and is_frame_folder(entry.path)

    for entry in _walk(root, ignored=ignored, is_clip_folder=is_clip_folder, on_error=on_error):
        stem, suffix = os.path.splitext(entry.name)
        paths = frames if not suffix and entry.is_dir() else by_suffix.get(suffix.lower())
        clip_id = key(stem) if paths is not None else None
        if paths is not None and clip_id is not None:
            paths[clip_id] = (*paths.get(clip_id, ()), entry.path)
    return MediaTree(root=root, videos=videos, frames=frames, sounds=sounds, unreadable=tuple(unreadable))


def _walk(
    root: Path,
    *,
    ignored: frozenset[str],
    is_clip_folder: Callable[["os.DirEntry[str]"], bool],
    on_error: Callable[[str, OSError], None],
) -> Iterator["os.DirEntry[str]"]:
    """Every file and every folder that is a clip, sorted by name within a folder."""
    folders, seen = [str(root)], {os.path.realpath(root)}
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            on_error(folder, error)
            continue
        for entry in visible:
            try:
                is_inner = entry.is_dir() and not is_clip_folder(entry)
            except OSError as error:
                on_error(entry.path, error)
                continue
            if not is_inner:
                yield entry
                continue
            # a link may lead back to a folder above
            real = os.path.realpath(entry.path)
            if entry.name not in ignored and real not in seen:
                seen.add(real)
                folders.append(entry.path)
