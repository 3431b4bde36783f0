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
"""Most words from a negator to the first mention, from a link to the next, between members of a list."""
HAN_REACH, HAN_REACH_SHORT, HAN_REACH_LINKED = 10, 4, 4
"""Most Chinese characters to the mention from a negator, a negator of one character, and a link."""
FAR = 1_000
"""The limit in characters for negators with a reach in words."""


class Kind(IntEnum):
    """The effect of a word or mark on a scope."""

    WORD = auto()
    MENTION = auto()
    NEGATOR = auto()
    DETERMINER = auto()  # a negator of a noun: it does not reach past "his" or "on"
    PRIVATION = auto()  # a determiner that does not reach past a verb, either: "without a smile she looks sad"
    PREFIX = auto()  # negates the next word alone: "non-angry"
    EXCEPTION = auto()  # a negator, except within a denial, which it ends: "no emotion other than anger"
    HAN_NEGATOR = auto()
    HAN_SHORT_NEGATOR = auto()
    HAN_PREFIX = auto()
    NOR = auto()
    NOT_NEGATOR = auto()  # looks like a negator: "no doubt"
    FOCUS = auto()  # directly behind a negator it takes the negation back: "not only"
    HIDING = auto()  # lifts a negation
    LINK = auto()
    AND = auto()
    HAN_LINK = auto()
    COMMA = auto()
    EMPHASIS = auto()  # words allowed between "and" and the mention
    LEAVING = auto()  # ends what a determiner denies
    TURN = auto()  # ends a scope that has reached a mention
    HAN_TURN = auto()  # ends a scope unless it directly follows the negator: "not very"
    CONTRAST = auto()  # ends a scope unless it directly follows the negator: "not because she is sad"
    STOP = auto()  # ends any scope


KINDS: Mapping[Kind, str] = {
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
PRAISE = (
    r"(?:could(?:n't| not)|can(?:'t|not| not)|never)(?: have)? (?:be|been|felt|looked|seemed)"
    r"(?= more [a-z]| [a-z]+ier\b| sadder\b| madder\b| calmer\b)"
)
"""A comparison that denies nothing: "never been happier"."""
NEGATORS: Mapping[Kind, tuple[int, int]] = {
    Kind.NEGATOR: (REACH, FAR),
    Kind.DETERMINER: (REACH, FAR),
    Kind.PRIVATION: (REACH, FAR),
    Kind.PREFIX: (0, FAR),
    Kind.EXCEPTION: (REACH, FAR),
    Kind.NOR: (REACH, FAR),
    Kind.HAN_NEGATOR: (REACH, HAN_REACH),
    Kind.HAN_SHORT_NEGATOR: (REACH, HAN_REACH_SHORT),
    Kind.HAN_PREFIX: (REACH, 0),
}
"""Most words and characters between a negator and the first mention."""
SPACED = frozenset({Kind.WORD, Kind.FOCUS, Kind.HIDING, Kind.LEAVING, Kind.TURN, Kind.CONTRAST})
"""Kinds that count as words between two others."""
_NOMINAL = frozenset({Kind.DETERMINER, Kind.PRIVATION})
_REPEATED = frozenset({Kind.DETERMINER, Kind.PRIVATION, Kind.HAN_NEGATOR, Kind.HAN_SHORT_NEGATOR})
"""Two negators of one of these kinds are two denials ("no tears no anger"); others cancel each other."""
ABSENT = re.compile(
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


class Scope:
    """The denied part of a text at one position; it receives the tokens in order."""

    def __init__(self) -> None:
        self.is_open = False
        self._denies = False
        self._kind = Kind.NEGATOR  # of the negator
        self._direct = self._direct_ordinal = 0  # end of the negator
        self._tail = -1  # end of the last mention inside; -1 before the first
        self._link: Kind | None = None  # between the last mention and the next
        self._until = self._until_ordinal = 0  # last place of the next mention

    def negator(self, token: Token) -> None:
        """Opens a scope; within an open scope without a mention it cancels the denial."""
        kind, is_within = token.kind, self.is_open and token.ordinal <= self._until_ordinal
        # "no emotion other than anger" states anger
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
        num_words, num_characters = NEGATORS[kind]
        self._until, self._until_ordinal = token.end + num_characters, token.ordinal + num_words

    def denies(self, mention: Token, text: str) -> bool:
        """True if a mention is denied; `text` is the folded text."""
        if not self.is_open:
            return False
        if self._tail < 0 or self._link is not None:
            words = 0 if self._link is Kind.AND else self._until_ordinal
            reaches = mention.start <= self._until and mention.ordinal <= max(words, self._direct_ordinal)
        else:
            # without a link only directly adjacent mentions share a denial
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
            case Kind.FOCUS:
                return is_behind
            case Kind.AND:
                return not is_behind
            case Kind.TURN:
                return is_behind or self._kind is Kind.PRIVATION
            case Kind.LEAVING:
                return not is_behind and self._kind in _NOMINAL
            case Kind.COMMA:
                return not (goes_on and (is_behind or self._kind in _NOMINAL))
            case Kind.LINK | Kind.HAN_LINK:
                return is_behind and token.ordinal > self._until_ordinal
            case Kind.CONTRAST if token.ordinal > self._direct_ordinal:
                return True
            case Kind.CONTRAST | Kind.HAN_TURN:
                return is_behind or token.start > self._direct + 1
            case kind:
                return kind is Kind.STOP


def list_continues(tokens: Sequence[Token]) -> list[bool]:
    """For each token, True if the list of mentions after it ends in "or" or "nor"."""
    continues = [False] * len(tokens)
    # backwards, so that each token is read once
    for index in range(len(tokens) - 2, -1, -1):
        following = tokens[index + 1]
        if following.ordinal <= tokens[index].ordinal + REACH_LISTED:
            is_member = following.kind in (Kind.COMMA, Kind.MENTION, Kind.EMPHASIS)
            continues[index] = following.kind in (Kind.LINK, Kind.NOR) or (is_member and continues[index + 1])
    return continues
