"""A text as the table reads it: NFKC, small letters, without what cannot be seen; and the way back."""

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """A folded text with the original positions of its characters."""

    text: str
    origins: list[int] | None
    """Offset in the given text by offset in the folded one, and the given text's length at the end; None where
    they are the same."""

    def origin(self, offset: int) -> int:
        """The original position of the folded character at `offset`."""
        return offset if self.origins is None else self.origins[offset]


def fold(text: str) -> Folded:
    """Folds width, ligatures, case and apostrophes, in linear time.

    Each character is folded alone, so that its position is known; format characters such as zero-width space
    vanish.
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
