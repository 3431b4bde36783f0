"""Where a text names an emotion, and whether it denies it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from common.emotions.chinese import (
    CHINESE,
    CHINESE_CONTRASTS,
    CHINESE_LINKS,
    CHINESE_NEGATORS,
    CHINESE_NOT_NEGATORS,
    NOT_WORDS,
)
from common.emotions.folding import Folded, fold, folded
from common.emotions.negation import PHRASES, PRAISE, Kind, Lists, Scope, denied_behind, english_kinds
from common.emotions.words import ENGLISH, ENGLISH_PHRASES

LATIN = r"[a-z\u00df-\u00f6\u00f8-\u024f]+(?:'t)?"
MARKS = r"[.;:!?()\[\]{}<>|。\u2014\u2013,、&+/]|\n\s*|(?<=\s)-+(?=\s)"
HAN = re.compile(r"[\u3001\u3400-\u9fff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """One naming of an emotion."""

    start: int
    end: int
    """Offsets [start, end) in the text as it was given."""
    surface: str
    """The text between them."""
    emotion: str
    """The canonical adjective: `furious` and `anger` are both `angry`."""
    is_negated: bool
    """Whether the text says that it is not so."""


@cache
def lexicon() -> dict[str, str]:
    """Emotion by word or phrase, English and Chinese, folded.

    Raises:
        ValueError: a word stands under two emotions.
    """
    found: dict[str, str] = {}
    for table in (ENGLISH, CHINESE):
        for emotion, words in table.items():
            for word in words.split():
                if word in found:
                    raise ValueError(f"a word must stand once, got {word!r} twice; remove one")
                found[word] = emotion
    return {**found, **ENGLISH_PHRASES}


def lemma(word: str) -> str | None:
    """The canonical emotion of one word or fixed phrase, such as `angry` for `Furious!`; None for any other."""
    return lexicon().get(" ".join(re.split(r"[\s\-_]+", folded(word).strip(" \t\n.,;:!?\"'*()[]{}<>。、_"))))


def mentions(text: str) -> tuple[Mention, ...]:
    """Every emotion that a text names, in its order; linear in the text's length.

    Args:
        text: English, Chinese or both, in any case and width.
    """
    seen = fold(text)
    tokens = list(_tokens(seen, text))
    kinds = [token[2] for token in tokens]
    lists, scope = Lists(kinds), Scope()
    found: list[tuple[int, int, str, bool]] = []
    for index, (start, end, kind, emotion) in enumerate(tokens):
        if kind is Kind.WORD:
            if scope.is_open:
                scope.word()
        elif kind is Kind.MENTION:
            found.append((start, end, emotion, scope.mention(seen.text, start, end)))
        elif kind in NEGATORS:
            if index + 1 == len(tokens) or kinds[index + 1] is not Kind.FOCUS:
                scope.negator(kind, end)
        elif scope.is_open and kind is not Kind.NOT_NEGATOR:
            scope.mark(kind, end, goes_on=kind is Kind.COMMA and lists.goes_on(index))
    return tuple(_mention(text, seen, *each) for each in _with_denials_behind(seen.text, found))


NEGATORS = frozenset({Kind.NEGATOR, Kind.DETERMINER, Kind.HAN_NEGATOR, Kind.HAN_SHORT_NEGATOR, Kind.NOR})
_LIST = re.compile(r"[\s,、和或与與&/]*(?:(?:and|or)\s+)?")


def _with_denials_behind(text: str, found: list[tuple[int, int, str, bool]]) -> list[tuple[int, int, str, bool]]:
    """Denies what is said to be absent afterwards, with the list that it ends."""
    for last, (_, end, _, _) in enumerate(found):
        if not denied_behind(text, end):
            continue
        index = last
        while True:
            start, end, emotion, _ = found[index]
            found[index] = (start, end, emotion, True)
            if index == 0 or not _LIST.fullmatch(text, found[index - 1][1], start) or found[index - 1][3]:
                break
            index -= 1
    return found


def _mention(text: str, seen: Folded, start: int, end: int, emotion: str, is_negated: bool) -> Mention:
    first, last = seen.origin(start), seen.origin(end - 1) + 1
    return Mention(start=first, end=last, surface=text[first:last], emotion=emotion, is_negated=is_negated)


def _tokens(seen: Folded, text: str) -> Iterable[tuple[int, int, Kind, str]]:
    """(start, end, kind, emotion) of each word, Chinese term and mark, in the folded text."""
    entries = _entries()
    for match in _pattern().finditer(seen.text):
        word = match[0]
        kind, emotion = entries.get(word) or _unlisted(word, entries)
        if word[0] == "\n":
            after = seen.origin(match.end())
            if word.count("\n") == 1 and text[after : after + 1].islower():
                continue
            kind = Kind.BREAK
        yield match.start(), match.end(), kind, emotion


def _unlisted(word: str, entries: dict[str, tuple[Kind, str]]) -> tuple[Kind, str]:
    """A phrase with a hyphen or more blanks, or a word without a part."""
    return _OTHER if word.isalpha() else entries.get(" ".join(re.split(r"[\s-]+", word)), _OTHER)


_OTHER = (Kind.WORD, "")


@cache
def _entries() -> dict[str, tuple[Kind, str]]:
    """What each word, phrase and mark is."""
    han = {
        Kind.HAN_NEGATOR: [word for word in CHINESE_NEGATORS.split() if len(word) > 1],
        Kind.HAN_SHORT_NEGATOR: [word for word in CHINESE_NEGATORS.split() if len(word) == 1],
        Kind.NOT_NEGATOR: [*CHINESE_NOT_NEGATORS.split(), *NOT_WORDS.split()],
        Kind.BREAK: CHINESE_CONTRASTS.split(),
        Kind.HAN_LINK: CHINESE_LINKS.split(),
    }
    return {
        **{word: (kind, "") for word, kind in english_kinds().items()},
        **{word: (kind, "") for kind, words in han.items() for word in words},
        **{word: (Kind.MENTION, emotion) for word, emotion in lexicon().items()},
    }


@cache
def _pattern() -> re.Pattern[str]:
    """Phrases before words, longer before shorter."""
    phrases = sorted([*PHRASES, *ENGLISH_PHRASES], key=len, reverse=True)
    han = sorted((word for word in _entries() if HAN.search(word)), key=len, reverse=True)
    return re.compile(
        "|".join(
            (
                "(?:" + "|".join(phrase.replace(" ", r"[\s-]+") for phrase in phrases) + ")(?![a-z'])",
                PRAISE,
                LATIN,
                "|".join(map(re.escape, han)),
                MARKS,
            )
        )
    )
