"""The result of reading a corpus, and the clips of each stage."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.config.corpora import Part
from common.errors import DatasetError
from common.types import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A clip of a list or table, without its media."""

    place: str
    """File and line."""
    clip_id: str
    label: str
    labels: tuple[str, ...] = ()
    response: str | None = None
    transcript: str | None = None
    caption: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A clip of a corpus that is in no split, with the reason."""

    clip_id: str
    reason: str
    """Short and countable: `missing`, `song`, `no-label`, ..."""
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """All clips of a corpus: as records, or dropped with a reason."""

    records: tuple[Record, ...]
    dropped: tuple[Dropped, ...] = ()
    files: tuple[str, ...] = ()
    """Lists and tables that were read, in order."""
    parts: frozenset[Part] = frozenset()
    """Parts that the corpus itself distinguishes; empty if it has no split."""
    listed: frozenset[str] = frozenset()
    """Ids in the list of this part, with media or without; empty if no list is read."""
    short_lists: tuple[str, ...] = ()
    """A line for each list with fewer clips than the corpus's paper."""
    on_disk: frozenset[str] = frozenset()
    """Ids in the tree of media, listed or not; empty if no list is read."""

    def content(self) -> bytes:
        """The content that identifies the records: the files' bytes, then the ids if the files do not determine
        them.
        """
        parts = [Path(file).read_bytes() for file in self.files]
        if self.dropped or not self.files:
            parts.append("\n".join(record.prompt_id for record in self.records).encode())
        return b"".join(parts)


def carved(
    records: Iterable[Record], *, part: Part, share: float, seed: int, parts: frozenset[Part], subject: str
) -> tuple[Record, ...]:
    """The records of one part, with validation separated from training by a hash of the ids.

    `parts` are those of the corpus itself; `share` of the training records, in [0, 1), is for validation.

    Raises:
        DatasetError: the corpus has no validation part, and `share` is 0.
    """
    if part == "validation" and share == 0 and parts and part not in parts:
        raise DatasetError(
            f"{subject}: validation_share must be > 0 for the part validation, got 0, and this corpus has no "
            "validation part; set it here and in data.source alike"
        )
    if part == "test" or share == 0 or "validation" in parts:
        return tuple(records)
    is_validation = part == "validation"
    return tuple(
        r for r in records if (hash_fraction(f"{seed}/{r.dataset}/{r.prompt_id}") < share) == is_validation
    )


def require_unique(clips: Iterable[tuple[str, str]], *, remedy: str = "remove one") -> None:
    """Raises `DatasetError` if a clip, passed as (place, id), is repeated."""
    places: dict[str, str] = {}
    for place, clip_id in clips:
        if clip_id in places:
            where = "twice" if places[clip_id] == place else f"at {places[clip_id]} too"
            raise DatasetError(f"{place}: each clip must occur once, got {clip_id!r} {where}; {remedy}")
        places[clip_id] = place


def hash_fraction(text: str) -> float:
    """A text's hash as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
