"""What reading a corpus gives, and which of its clips a stage takes."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config.corpora import Part
from common.errors import DatasetError
from common.types import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A clip of a corpus that is in no split, and why."""

    clip_id: str
    reason: str
    """Short and countable: `missing`, `song`, `no-label`, ..."""
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Everything a corpus holds: as a record, or with a reason why not."""

    records: tuple[Record, ...]
    dropped: tuple[Dropped, ...] = ()
    files: tuple[str, ...] = ()
    """Lists and tables that were read, in order."""
    parts: frozenset[Part] = frozenset()
    """That the corpus itself tells apart; none where all its clips are of one kind."""
    listed: frozenset[str] = frozenset()
    """Clips that the list of this part names, with media or without; none where no list is read."""
    short_lists: tuple[str, ...] = ()
    """Of each list that has fewer clips than the corpus' paper: which, and how many of how many."""
    on_disk: frozenset[str] = frozenset()
    """Clips that the tree of media holds, listed or not; none where no list is read."""

    def content(self) -> bytes:
        """What says which records there are: the files' bytes, then the ids where the files do not say it alone."""
        parts = [Path(file).read_bytes() for file in self.files]
        if self.dropped or not self.files:
            parts.append("\n".join(record.prompt_id for record in self.records).encode())
        return b"".join(parts)


def carved(
    records: Iterable[Record], *, part: Part, share: float, seed: int, parts: frozenset[Part], subject: str
) -> tuple[Record, ...]:
    """The records of one part, where validation is set aside from training by a hash of the ids.

    Args:
        records: those of the part as the corpus tells it, the training records where it tells no validation; all
            of them where it has no parts of its own.
        part: the one to take.
        share: of the training records that are for validation, in [0, 1).
        seed: of the hash.
        parts: that the corpus itself tells apart.
        subject: names the corpus in an error.

    Raises:
        DatasetError: validation of a corpus that has none, without a share to set aside.
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
    """Every id stands once.

    Raises:
        DatasetError: one stands twice.
    """
    seen: set[str] = set()
    for record in records:
        if record.prompt_id in seen:
            raise DatasetError(f"{subject}: each clip must stand once, got {record.prompt_id!r} twice; {remedy}")
        seen.add(record.prompt_id)


def hash_fraction(text: str) -> float:
    """A text's hash as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
