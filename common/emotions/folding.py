"""Folded texts (NFKC, lower case, no invisible characters) with the offsets of the original."""

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """A folded text with the original positions of its characters."""

    text: str
    origins: list[int] | None
    """Original offset by folded offset, then the length of the original; None if the offsets are equal."""

    def origin(self, offset: int) -> int:
        """The original position of the folded character at `offset`."""
        return offset if self.origins is None else self.origins[offset]


def fold(text: str) -> Folded:
    """Folds width, ligatures, case and apostrophes, and removes format characters; in linear time."""
    if text.isascii():
        return Folded(text=text.lower(), origins=None)
    # each character alone, so that its position is known
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
