"""Which mentions of emotions a text denies.

A negator opens a scope and what ends a clause closes it; within, every mention is denied. A second negator inside
the scope lifts the first ("not without fear"), as does a verb of hiding ("cannot hide her anger"). Behind the first
mention the scope goes on only through a list: "or", "and" directly before the next, commas that end in "or".
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto

REACH, REACH_LINKED = 8, 4
"""Words between a negator, or an "or", and the mention that it reaches."""
HAN_REACH, HAN_REACH_SHORT, HAN_REACH_LINKED = 10, 4, 4
"""The same in Chinese characters; short for a negator of one character."""


class Kind(Enum):
    """What a word or mark does to a scope."""

    WORD = auto()
    MENTION = auto()
    NEGATOR = auto()
    DETERMINER = auto()
    """A negator of a noun: it does not reach past "his" or "on"."""
    HAN_NEGATOR = auto()
    HAN_SHORT_NEGATOR = auto()
    NOT_NEGATOR = auto()
    """Looks like a negator: "no doubt"."""
    FOCUS = auto()
    """Directly behind a negator it takes the negation back: "not only"."""
    HIDING = auto()
    LINK = auto()
    AND = auto()
    HAN_LINK = auto()
    NOR = auto()
    COMMA = auto()
    EMPHASIS = auto()
    """May stand between "and" and the mention."""
    LEAVING = auto()
    """Ends what a determiner denies."""
    TURN = auto()
    """Ends a scope that has reached a mention."""
    BREAK = auto()


_KINDS: Mapping[Kind, str] = {
    Kind.NEGATOR: """
        not never neither nobody none nothing cannot hardly barely scarcely excluding except non no_one no_longer
        far_from anything_but rather_than instead_of fail_to fails_to failed_to failing_to unable_to ruling_out
        rules_out ruled_out isn't aren't wasn't weren't don't doesn't didn't hasn't haven't hadn't can't couldn't
        won't wouldn't shouldn't mustn't needn't mightn't ain't shan't isnt arent wasnt werent dont doesnt didnt
        hasnt havent hadnt cant couldnt wont wouldnt shouldnt aint""",
    Kind.DETERMINER: """
        no without zero lack_of lacks lacking lacked absence_of devoid_of free_of free_from""",
    Kind.NOT_NEGATOR: """
        no_doubt without_doubt without_a_doubt without_any_doubt without_question no_question no_wonder no_sooner
        no_matter no_less nothing_but none_but nothing_other_than nothing_less_than nothing_short_of can't_help
        cannot_help can_not_help couldn't_help could_not_help whether_or_not not_to_mention make_no_mistake""",
    Kind.FOCUS: """
        only just merely simply solely""",
    Kind.HIDING: """
        hide hides hiding hidden conceal conceals concealing concealed mask masks masking masked suppress
        suppresses suppressing suppressed contain contains containing contained disguise disguised deny denies
        denying restrain restrained""",
    Kind.LINK: "or /",
    Kind.AND: "and & +",
    Kind.NOR: "nor",
    Kind.COMMA: ",",
    Kind.EMPHASIS: "any even",
    Kind.LEAVING: "his her their its my your our on at",
    Kind.TURN: "rather instead as more still actually is are was were he she they it",
    Kind.BREAK: """
        but however although though whereas while because since nevertheless nonetheless despite unless if when
        until so then . ; : ! ? ( ) [ ] { } < > | 。 \u2014 \u2013""",
}
"""Words and marks, separated by blanks; `_` is a blank within a phrase."""
PHRASES = tuple(word.replace("_", " ") for words in _KINDS.values() for word in words.split() if "_" in word)
PRAISE = (
    r"(?:could(?:n't| not)|can(?:'t|not| not)|never)(?: have)? (?:be|been|felt|looked|seemed)"
    r"(?= more [a-z]| [a-z]+ier\b| sadder\b| madder\b| calmer\b)"
)
"""A comparison that denies nothing: "never been happier"."""

_ABSENT = re.compile(
    r"[\"'*]{0,3}\s*[:=]\s*[\"'*]{0,3}(?:no|none|absent|false|0(?:\.0+)?)(?![\w.])"
    r"|-free\b"
    r"| (?:(?:is|are|was|were) (?:not|never)|(?:is|are|was|were)n't) (?:\w+ly )?"
    r"(?:present|shown|seen|visible|evident|apparent|expressed|displayed|detected|observed|felt|there|obvious|conveyed)\b"
    r"| (?:is|are|was|were) (?:\w+ly )?(?:absent|missing|lacking|ruled out|excluded)\b"
    r"|并?並?(?:不存在|不明显|不明顯)"
)


def english_kinds() -> dict[str, Kind]:
    """By word, phrase or mark."""
    return {word.replace("_", " "): kind for kind, words in _KINDS.items() for word in words.split()}


def denied_behind(text: str, end: int) -> bool:
    """Whether what follows a mention says that it is absent: "anger is not present", `anger: no`.

    Args:
        text: folded.
        end: of the mention.
    """
    return _ABSENT.match(text, end) is not None


class Scope:
    """What of a text is denied at one place of it; fed with its words and marks in order."""

    __slots__ = ("_is_linked", "_is_noun", "_needs_and", "_parity", "_reach", "_tail", "is_open", "room")

    def __init__(self) -> None:
        self.is_open = False
        self.room = 0
        """Words that may still stand between."""
        self._parity = False
        self._reach = 0
        """Offset that a Chinese mention must start before."""
        self._tail = -1
        """Where the last mention within ended; -1 before the first."""
        self._is_linked = False
        self._needs_and = False
        self._is_noun = False

    def word(self) -> None:
        """Any word that has no part in this."""
        self.room -= 1
        if self.room < 0 or self._needs_and:
            self.is_open = False

    def negator(self, kind: Kind, end: int) -> None:
        """Opens a scope, or lifts the one that is open and has reached nothing yet."""
        is_noun = kind is Kind.DETERMINER
        lifts = self.is_open and self._tail < 0 and not (is_noun and self._is_noun) and kind is not Kind.NOR
        self._parity = not self._parity if lifts else True
        self.is_open, self._is_noun, self._tail, self._is_linked, self._needs_and = True, is_noun, -1, False, False
        self.room = REACH
        self._reach = end + {Kind.HAN_NEGATOR: HAN_REACH, Kind.HAN_SHORT_NEGATOR: HAN_REACH_SHORT}.get(kind, 200)

    def mention(self, text: str, start: int, end: int) -> bool:
        """Whether a mention is denied."""
        if not self.is_open:
            return False
        if self._tail < 0 or self._is_linked:
            reaches = start <= self._reach
        else:
            between = text[self._tail : start]
            reaches = not between or between.isspace()
        self.is_open = reaches
        self._tail, self._is_linked, self._needs_and, self.room = end, False, False, REACH_LINKED
        return reaches and self._parity

    def mark(self, kind: Kind, end: int, *, goes_on: bool) -> None:
        """Any other word or mark, while the scope is open.

        Args:
            kind: of it.
            end: of it.
            goes_on: a comma's list ends in "or".
        """
        is_behind = self._tail >= 0
        if kind is Kind.HIDING and not is_behind:
            self._parity = not self._parity
        elif (
            kind is Kind.BREAK
            or (kind is Kind.COMMA and not (is_behind and goes_on))
            or (kind is Kind.AND and not is_behind)
            or (kind is Kind.LEAVING and self._is_noun and not is_behind)
            or (kind in (Kind.TURN, Kind.FOCUS) and is_behind)
        ):
            self.is_open = False
        elif kind in (Kind.LINK, Kind.AND, Kind.COMMA, Kind.HAN_LINK):
            self._is_linked = is_behind
            self._needs_and = kind is Kind.AND
            self.room = REACH_LINKED if is_behind else self.room
            self._reach = end + (HAN_REACH_LINKED if kind is Kind.HAN_LINK else 200) if is_behind else self._reach
        elif kind is not Kind.EMPHASIS:
            self.word()


class Lists:
    """Which commas are followed by a list of mentions that ends in "or"; each word is looked at once."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._until = -1
        self._goes_on = False

    def goes_on(self, comma: int) -> bool:
        """Whether the list does; `comma` is an index, asked in rising order."""
        if comma >= self._until:
            self._until, self._goes_on = self._end(comma)
        return self._goes_on

    def _end(self, comma: int) -> tuple[int, bool]:
        """Where the list behind a comma ends, and whether an "or" stands in it."""
        kinds, index, num_words = self._kinds, comma + 1, 0
        while index < len(kinds):
            kind = kinds[index]
            if kind is Kind.LINK:
                return index, True
            if kind is Kind.COMMA or kind is Kind.MENTION:
                num_words = 0
            elif kind in (Kind.WORD, Kind.EMPHASIS) and num_words < 2:
                num_words += 1
            else:
                break
            index += 1
        return index, False
