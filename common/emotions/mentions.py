"""Mentions of emotions in a text, and their denials."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from common.emotions.chinese import CHINESE, HAN_KINDS
from common.emotions.folding import Folded, fold, folded
from common.emotions.negation import ABSENT, KINDS, NEGATORS, PRAISE, SPACED, Kind, Scope, Token, list_continues
from common.emotions.words import ENGLISH

LATIN = r"[a-z\u00df-\u00f6\u00f8-\u024f]+(?:'t)?"
MARKS = r"[.;:!?()\[\]{}<>|。\u2014\u2013,、&+/]|\n\s*|(?<=\s)-+(?=\s)"
HAN = re.compile(r"[\u3001\u3400-\u9fff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    start: int
    end: int
    """Offsets [start, end) in the original text."""
    surface: str
    """The text between them."""
    emotion: str
    """The canonical adjective: `furious` and `anger` are both `angry`."""
    is_negated: bool
    """True if the text denies it."""


@cache
def lexicon() -> dict[str, str]:
    """Emotion by folded word or phrase, English and Chinese; raises `ValueError` for a word of two emotions."""
    emotions: dict[str, str] = {}
    for table in (ENGLISH, CHINESE):
        for emotion, words in table.items():
            for word in _terms(words):
                if word in emotions:
                    raise ValueError(f"a word must have one emotion, got {word!r} twice; remove one")
                emotions[word] = emotion
    return emotions


def _terms(words: str) -> list[str]:
    return [word.replace("_", " ") for word in words.split()]


def lemma(word: str) -> str | None:
    """The canonical emotion of one word or fixed phrase, such as `angry` for `Furious!`; None for another text."""
    return lexicon().get(" ".join(re.split(r"[\s\-_]+", folded(word).strip(" \t\n.,;:!?\"'*()[]{}<>。、_"))))


def mentions(text: str) -> tuple[Mention, ...]:
    """Every emotion that a text names, in order, in linear time. The text is English, Chinese or both."""
    seen = fold(text)
    result: list[Mention] = []
    for token, is_negated in _scanned(seen, text):
        start, end = seen.origin(token.start), seen.origin(token.end - 1) + 1
        result.append(
            Mention(start=start, end=end, surface=text[start:end], emotion=token.emotion, is_negated=is_negated)
        )
    return tuple(result)


def named(text: str) -> tuple[str, ...]:
    """The emotions that a text names and does not deny, by first mention, each once."""
    return tuple(dict.fromkeys(token.emotion for token, is_negated in _scanned(fold(text), text) if not is_negated))


def _scanned(seen: Folded, text: str) -> list[tuple[Token, bool]]:
    """Each mention, and True if it is denied."""
    tokens = _tokens(seen, text)
    continues, scope = list_continues(tokens), Scope()
    scanned: list[tuple[Token, bool]] = []
    for index, token in enumerate(tokens):
        kind = token.kind
        if kind is Kind.MENTION:
            scanned.append((token, scope.denies(token, seen.text)))
        elif kind in NEGATORS:
            if not _is_taken_back(tokens, index):
                scope.negator(token)
        elif scope.is_open:
            scope.other(token, goes_on=kind is Kind.COMMA and continues[index])
    return _with_denials_behind(seen.text, scanned)


def _is_taken_back(tokens: list[Token], index: int) -> bool:
    """True if "only" or a similar word directly follows a negator."""
    following = tokens[index + 1] if index + 1 < len(tokens) else tokens[index]
    return following.kind is Kind.FOCUS and following.ordinal == tokens[index].ordinal


_LIST = re.compile(r"[\s,、和或与與&/]*(?:(?:and|or)\s+)?")


def _with_denials_behind(text: str, scanned: list[tuple[Token, bool]]) -> list[tuple[Token, bool]]:
    """Denies mentions whose absence is stated after them, with the list that they end."""
    for last, (token, _) in enumerate(scanned):
        if not ABSENT.match(text, token.end):
            continue
        scanned[last] = (token, True)
        for index in range(last - 1, -1, -1):
            earlier, is_negated = scanned[index]
            if is_negated or not _LIST.fullmatch(text, earlier.end, scanned[index + 1][0].start):
                break
            scanned[index] = (earlier, True)
    return scanned


def _tokens(seen: Folded, text: str) -> list[Token]:
    """Words, phrases, Chinese terms and marks that name or deny, in order."""
    entries, ordinal = _entries(), 0
    tokens: list[Token] = []
    for match in _pattern().finditer(seen.text):
        word = match[0]
        entry = entries.get(word) or _unlisted(word, entries)
        if entry is None:
            ordinal += 1
        elif word[0] != "\n" or _is_break(word, text, seen.origin(match.end())):
            tokens.append(Token(match.start(), match.end(), *entry, ordinal))
            ordinal += entry[0] in SPACED
    return tokens


def _is_break(newlines: str, text: str, after: int) -> bool:
    """True if a new line is more than a wrapped line, which continues in lower case."""
    return newlines.count("\n") > 1 or not text[after : after + 1].islower()


def _unlisted(word: str, entries: dict[str, tuple[Kind, str]]) -> tuple[Kind, str] | None:
    """A token that differs from its table entry: a hyphen or more blanks in a phrase, a dash, the end of a line."""
    if word.isalpha():
        return None
    return (Kind.STOP, "") if word[0] in "\n-" else entries.get(" ".join(re.split(r"[\s-]+", word)))


@cache
def _entries() -> dict[str, tuple[Kind, str]]:
    return {
        **{
            term: (kind, "")
            for table in (KINDS, HAN_KINDS)
            for kind, words in table.items()
            for term in _terms(words)
        },
        **{word: (Kind.MENTION, emotion) for word, emotion in lexicon().items()},
    }


@cache
def _pattern() -> re.Pattern[str]:
    # phrases before words, longer before shorter; grouping by first characters makes the search fast
    phrases = {term for term in _entries() if " " in term}
    han = {term for term in _entries() if HAN.match(term)}
    return re.compile(
        f"{_any_of(phrases)}(?![a-z'])|(?=[cn]){PRAISE}|{LATIN}|{_any_of(han)}|{MARKS}".replace(r"\ ", r"[\s-]+")
    )


def _any_of(words: Iterable[str]) -> str:
    """An expression for any of the terms, longest first."""
    endings: dict[str, list[str]] = {}
    for word in sorted(words, key=lambda word: (-len(word), word)):
        endings.setdefault(word[0], []).append(re.escape(word[1:]))
    choices = "|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in endings.items())
    return f"(?=[{''.join(endings)}])(?:{choices})"
