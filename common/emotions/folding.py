"""A text as the table reads it: NFKC, small letters, without what cannot be seen; and the way back."""

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """A folded text that knows where its characters came from."""

    text: str
    origins: list[int] | None
    """Offset in the given text by offset in the folded one, and the given text's length at the end; None where
    they are the same."""

    def origin(self, offset: int) -> int:
        """Where the folded character at `offset` came from."""
        return offset if self.origins is None else self.origins[offset]


def fold(text: str) -> Folded:
    """Full-width and ligature forms become plain, capitals small, curved apostrophes straight.

    Each character is folded alone, so that its origin is known; format characters (zero-width, soft hyphen,
    direction marks) vanish. Linear in the text's length.
    """
    if text.isascii():
        return Folded(text=text.lower(), origins=None)
    table = {character: _fold(character) for character in set(text)}
    if all(len(folded) == 1 for folded in table.values()):
        return Folded(text="".join(map(table.__getitem__, text)), origins=None)
    pieces = [table[character] for character in text]
    origins = [offset for offset, piece in enumerate(pieces) for _ in piece]
    return Folded(text="".join(pieces), origins=[*origins, len(text)])


def folded(text: str) -> str:
    return fold(text).text


def _fold(character: str) -> str:
    if character in "\u2018\u2019\u02bc\u00b4`":
        return "'"
    if unicodedata.category(character) == "Cf":
        return ""
    return unicodedata.normalize("NFKC", character).lower()
