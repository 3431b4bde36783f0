"""Denied mentions of emotions in a text.

A negator opens a scope and the end of a clause closes it; every mention inside is denied. A second negator inside
lifts the first ("not without fear"), as does a verb of hiding ("cannot hide her anger"). After the first mention
the scope continues only through a list: "or", "and" directly before the next, commas that end in "or".
"""

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum, auto
from typing import NamedTuple

REACH, REACH_LINKED, REACH_LISTED = 8, 4, 1
"""Words between a negator and the first mention; a mention, a link and the next; two members of a list."""
HAN_REACH, HAN_REACH_SHORT, HAN_REACH_LINKED = 10, 4, 4
"""Chinese characters between a negator, one of a single character, or a link, and the mention."""
FAR = 1_000
"""Characters; where words alone count."""


class Kind(IntEnum):
    """The effect of a word or mark on a scope."""

    WORD = auto()
    MENTION = auto()
    NEGATOR = auto()
    DETERMINER = auto()
    """A negator of a noun: it does not reach past "his" or "on"."""
    PRIVATION = auto()
    """The same, and it does not reach past a verb: "without a smile she looks sad"."""
    PREFIX = auto()
    """Negates the next word alone: "non-angry"."""
    EXCEPTION = auto()
    """Denies what follows, but admits it where everything else is denied: "no emotion other than anger"."""
    HAN_NEGATOR = auto()
    HAN_SHORT_NEGATOR = auto()
    HAN_PREFIX = auto()
    NOR = auto()
    NOT_NEGATOR = auto()
    """Looks like a negator: "no doubt"."""
    FOCUS = auto()
    """Directly behind a negator it takes the negation back: "not only"."""
    HIDING = auto()
    """Lifts a negation."""
    LINK = auto()
    AND = auto()
    HAN_LINK = auto()
    COMMA = auto()
    EMPHASIS = auto()
    """Words allowed between "and" and the mention."""
    LEAVING = auto()
    """Ends what a determiner denies."""
    TURN = auto()
    """Ends a scope that has reached a mention."""
    HAN_TURN = auto()
    """Words that end a scope unless they directly follow the negator."""
    CONTRAST = auto()
    """Words that end a scope unless they directly follow the negator: "not because she is sad"."""
    STOP = auto()
    """Ends any scope."""


_KINDS: Mapping[Kind, str] = {
    Kind.NEGATOR: """
        not never neither nobody none nothing cannot hardly barely scarcely no_one no_longer far_from anything_but
        rather_than instead_of fail_to fails_to failed_to failing_to unable_to ruling_out rules_out ruled_out isn't
        aren't wasn't weren't don't doesn't didn't hasn't haven't hadn't can't couldn't won't wouldn't shouldn't
        mustn't needn't mightn't ain't shan't isnt arent wasnt werent dont doesnt didnt hasnt havent hadnt cant
        couldnt wont wouldnt shouldnt aint""",
    Kind.DETERMINER: "no zero",
    Kind.PRIVATION: "without lack_of lacks lacking lacked absence_of devoid_of free_of free_from",
    Kind.PREFIX: "non un",
    Kind.EXCEPTION: "except excepting excluding other_than apart_from aside_from",
    Kind.NOR: "nor",
    Kind.NOT_NEGATOR: """
        no_doubt without_doubt without_a_doubt without_any_doubt without_question no_question no_wonder no_sooner
        no_matter no_less nothing_but none_but nothing_other_than nothing_less_than nothing_short_of
        none_other_than whether_or_not not_to_mention make_no_mistake can't_help cannot_help can_not_help
        couldn't_help could_not_help can't_contain cannot_contain can_not_contain couldn't_contain could_not_contain
        unable_to_contain barely_contain barely_contained barely_containing can't_believe cannot_believe
        couldn't_believe could_not_believe can't_stop cannot_stop couldn't_stop could_not_stop try_not_to
        tries_not_to tried_not_to trying_not_to""",
    Kind.FOCUS: "only just merely simply solely",
    Kind.HIDING: """
        hide hides hiding hidden conceal conceals concealing concealed mask masks masking masked suppress
        suppresses suppressing suppressed disguise disguises disguising disguised deny denies denying restrain
        restrains restraining restrained""",
    Kind.LINK: "or /",
    Kind.AND: "and & +",
    Kind.COMMA: ",",
    Kind.EMPHASIS: "any even",
    Kind.LEAVING: "his her their its my your our on at",
    Kind.TURN: "rather instead as more still actually is are was were he she they it",
    Kind.CONTRAST: """
        but however although though whereas while because since nevertheless nonetheless despite unless if when
        until so then why how""",
    Kind.STOP: ". ; : ! ? ( ) [ ] { } < > | 。 \u2014 \u2013",
}
"""Words and marks, separated by blanks; `_` is a blank within a phrase."""
PHRASES = tuple(word.replace("_", " ") for words in _KINDS.values() for word in words.split() if "_" in word)
PRAISE = (
    r"(?:could(?:n't| not)|can(?:'t|not| not)|never)(?: have)? (?:be|been|felt|looked|seemed)"
    r"(?= more [a-z]| [a-z]+ier\b| sadder\b| madder\b| calmer\b)"
)
"""A comparison that denies nothing: "never been happier"."""
NEGATORS = frozenset(
    {
        Kind.NEGATOR,
        Kind.DETERMINER,
        Kind.PRIVATION,
        Kind.PREFIX,
        Kind.EXCEPTION,
        Kind.HAN_NEGATOR,
        Kind.HAN_SHORT_NEGATOR,
        Kind.HAN_PREFIX,
        Kind.NOR,
    }
)
SPACED = frozenset({Kind.WORD, Kind.FOCUS, Kind.HIDING, Kind.LEAVING, Kind.TURN, Kind.CONTRAST})
"""Kinds that count as words between two others."""
_REACH = {Kind.PREFIX: 0}
_HAN_REACH = {Kind.HAN_NEGATOR: HAN_REACH, Kind.HAN_SHORT_NEGATOR: HAN_REACH_SHORT, Kind.HAN_PREFIX: 0}
_NOMINAL = frozenset({Kind.DETERMINER, Kind.PRIVATION})
_REPEATED = frozenset({Kind.DETERMINER, Kind.PRIVATION, Kind.HAN_NEGATOR, Kind.HAN_SHORT_NEGATOR})
"""Two of a kind are two denials: "no tears no anger"; two others lift each other."""
_ABSENT = re.compile(
    r"[\"'*]{0,3}\s*[:=]\s*[\"'*]{0,3}(?:no|none|absent|false|0(?:\.0+)?)(?![\w.])"
    r"|-free\b"
    r"| (?:(?:is|are|was|were) (?:not|never)|(?:is|are|was|were)n't) (?:\w+ly )?(?:present|shown|seen|visible"
    r"|evident|apparent|expressed|displayed|detected|observed|felt|there|obvious|conveyed)\b"
    r"| (?:is|are|was|were) (?:\w+ly )?(?:absent|missing|lacking|ruled out|excluded)\b"
    r"|[并並]?(?:不存在|不明显|不明顯)"
)


class Token(NamedTuple):
    """A word or mark that affects denial, at [start, end) of the folded text; a tuple for speed."""

    start: int
    end: int
    kind: Kind
    emotion: str
    """The emotion, of a mention."""
    ordinal: int
    """Words of `SPACED` kinds before it."""


def english_kinds() -> dict[str, Kind]:
    return {word.replace("_", " "): kind for kind, words in _KINDS.items() for word in words.split()}


def denied_behind(text: str, end: int) -> bool:
    """True if the text after a mention states its absence: `anger: no`."""
    return _ABSENT.match(text, end) is not None


class Scope:
    """The denied part of a text at one position; it receives the tokens in order."""

    __slots__ = (
        "_denies",
        "_direct",
        "_direct_ordinal",
        "_kind",
        "_link",
        "_tail",
        "_until",
        "_until_ordinal",
        "is_open",
    )

    def __init__(self) -> None:
        self.is_open = False
        self._kind = Kind.NEGATOR
        """The kind of the negator."""
        self._denies = False
        self._until = self._until_ordinal = 0
        """Offset and ordinal that the next mention must not lie behind."""
        self._direct = self._direct_ordinal = 0
        """The end of the negator."""
        self._tail = -1
        """The end of the last mention inside; -1 before the first."""
        self._link: Kind | None = None
        """The connection of the next mention to the last."""

    def negator(self, token: Token) -> None:
        """Opens a scope, or lifts an open scope without a mention."""
        kind, is_within = token.kind, self.is_open and token.ordinal <= self._until_ordinal
        if kind is Kind.EXCEPTION and is_within and self._denies:
            self.is_open = False
            return
        lifts = (
            is_within
            and self._tail < 0
            and token.start <= self._until
            and kind is not Kind.NOR
            and not (kind in _REPEATED and kind is self._kind)
        )
        self._denies = not self._denies if lifts else True
        self.is_open, self._kind, self._tail, self._link = True, kind, -1, None
        self._direct, self._direct_ordinal = token.end, token.ordinal
        self._until, self._until_ordinal = (
            token.end + _HAN_REACH.get(kind, FAR),
            token.ordinal + _REACH.get(kind, REACH),
        )

    def denies(self, mention: Token, text: str) -> bool:
        """True if a mention is denied; `text` is the folded text."""
        if not self.is_open:
            return False
        if self._tail < 0 or self._link is not None:
            words = 0 if self._link is Kind.AND else self._until_ordinal
            reaches = mention.start <= self._until and mention.ordinal <= max(words, self._direct_ordinal)
        else:
            between = text[self._tail : mention.start]
            reaches = not between or between.isspace()
        self.is_open, self._tail, self._link = reaches, mention.end, None
        self._until_ordinal = mention.ordinal + REACH_LINKED
        return reaches and self._denies

    def other(self, token: Token, *, goes_on: bool) -> None:
        """Any other word or mark while the scope is open; a comma `goes_on` if its list ends in "or"."""
        kind, is_behind = token.kind, self._tail >= 0
        if self._ends(token, is_behind=is_behind, goes_on=goes_on):
            self.is_open = False
        elif kind is Kind.HIDING and not is_behind:
            self._denies = not self._denies
        elif kind is Kind.HAN_TURN:
            self._direct = token.end
        elif is_behind and kind in (Kind.LINK, Kind.AND, Kind.COMMA, Kind.HAN_LINK):
            self._link, self._direct_ordinal = kind, token.ordinal
            self._until = token.end + (HAN_REACH_LINKED if kind is Kind.HAN_LINK else FAR)
            self._until_ordinal = token.ordinal + REACH_LINKED

    def _ends(self, token: Token, *, is_behind: bool, goes_on: bool) -> bool:
        match token.kind:
            case Kind.STOP:
                return True
            case Kind.CONTRAST:
                return is_behind or token.ordinal > self._direct_ordinal or token.start > self._direct + 1
            case Kind.COMMA:
                return not (goes_on and (is_behind or self._kind in _NOMINAL))
            case Kind.AND:
                return not is_behind
            case Kind.LEAVING:
                return self._kind in _NOMINAL and not is_behind
            case Kind.TURN:
                return is_behind or self._kind is Kind.PRIVATION
            case Kind.FOCUS:
                return is_behind
            case Kind.HAN_TURN:
                return is_behind or token.start > self._direct + 1
            case Kind.LINK | Kind.HAN_LINK:
                return is_behind and token.ordinal > self._until_ordinal
            case _:
                return False


class Lists:
    """The commas that precede a list of mentions ending in "or" or "nor"; each token is read once."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._until = -1
        self._goes_on = False

    def goes_on(self, comma: int) -> bool:
        """True if the list continues after the comma; indices must rise."""
        if comma >= self._until:
            self._until, self._goes_on = self._end(comma)
        return self._goes_on

    def _end(self, comma: int) -> tuple[int, bool]:
        """The end of the list after a comma, and True if it contains "or" or "nor"."""
        before = self._tokens[comma]
        for index in range(comma + 1, len(self._tokens)):
            token = self._tokens[index]
            if token.ordinal > before.ordinal + REACH_LISTED:
                return index, False
            if token.kind in (Kind.LINK, Kind.NOR):
                return index, True
            if token.kind not in (Kind.COMMA, Kind.MENTION, Kind.EMPHASIS):
                return index, False
            before = token
        return len(self._tokens), False
