"""The result of reading a corpus, and the clips of each stage."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config.corpora import Part
from common.errors import DatasetError
from common.types import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A clip of a corpus that is in no split, with the reason."""

    clip_id: str
    reason: str
    """Short and countable: `missing`, `song`, `no-label`, ..."""
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """All clips of a corpus, as records or with the reason why not."""

    records: tuple[Record, ...]
    dropped: tuple[Dropped, ...] = ()
    files: tuple[str, ...] = ()
    """Lists and tables that were read, in order."""
    parts: frozenset[Part] = frozenset()
    """That the corpus itself tells apart; none where all its clips are of one kind."""
    listed: frozenset[str] = frozenset()
    """Clips that the list of this part names, with media or without; none where no list is read."""
    short_lists: tuple[str, ...] = ()
    """A line for each list with fewer clips than the corpus's paper."""
    on_disk: frozenset[str] = frozenset()
    """Clips that the tree of media holds, listed or not; none where no list is read."""

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

    `parts` are those that the corpus has itself; `share` of the training records, in [0, 1), is for validation.

    Raises:
        DatasetError: the corpus has no validation part, and `share` is 0.
    """
    if part == "validation" and share == 0 and parts and part not in parts:
        raise DatasetError(
            f"{subject}: validation_share must be > 0 for the part validation, got 0: this corpus has none of its "
            "own; set it here and in data.source alike"
        )
    if part == "test" or share == 0 or "validation" in parts:
        return tuple(records)
    wanted = part == "validation"
    return tuple(r for r in records if (hash_fraction(f"{seed}/{r.dataset}/{r.prompt_id}") < share) == wanted)


def require_unique(records: Sequence[Record], *, subject: str, remedy: str = "remove one") -> None:
    """Raises `DatasetError` if an id is repeated."""
    seen: set[str] = set()
    for record in records:
        if record.prompt_id in seen:
            raise DatasetError(f"{subject}: each clip must stand once, got {record.prompt_id!r} twice; {remedy}")
        seen.add(record.prompt_id)


def hash_fraction(text: str) -> float:
    """A text's hash as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
