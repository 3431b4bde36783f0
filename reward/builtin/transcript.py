"""A reward for correct quotes of the speech."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydantic import Field

from reward.builtin.parts.completion import think_part, words_of
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest, RewardResult

MAX_QUOTED = 4096
"""Most quoted words that are compared: the time is their number times the words of the transcript."""
_QUOTE = re.compile(r'"([^"\n]*+)"|“([^“”]*+)”|「([^「」]*+)」|『([^『』]*+)』')


@builtin_reward("transcript_wer")
class TranscriptReward:
    """The accuracy of the quotes in the thought against the transcript.

    Formula: 1 - WER: word edits between each quote and its best stretch of the transcript, over the quoted words.
    A Chinese character is a word; case and punctuation do not count. Quotes stand in double quotation marks,
    straight (within a line) or curved, or in corner brackets; those shorter than `min_words` are emphasis.
    None without a transcript. Range: 0 to 1; `without_quotes` for no quotes, 0 for more than 4,096 quoted words.
    Source: R1-Omni lists wrong subtitles among its limits; Video-R1 rewards read text by clip(1 - WER, 0, 1).
    Caution: a short safe quote scores as well as a long one. `without_quotes: 0` would make invention free.
    """

    min_words: int = Field(default=2, ge=1)
    """Fewest words of a quote of speech."""
    without_quotes: float = Field(default=0.5, ge=0, le=1)
    """Value of a completion without quotes."""

    def __call__(self, request: RewardRequest) -> RewardResult:
        if request.record.transcript is None:
            return RewardResult(value=None, detail="the record has no transcript")
        quotes = [q for q in quotes_of(think_part(request.completion)) if len(q) >= self.min_words]
        if not quotes:
            return RewardResult(value=self.without_quotes, detail="nothing is quoted")
        num_words = sum(map(len, quotes))
        facts = {"quoted_words": float(num_words)}
        if num_words > MAX_QUOTED:
            return RewardResult(value=0.0, detail=f"more than {MAX_QUOTED} words are quoted", facts=facts)
        num_edits = edits_to_best_stretches(quotes, words_of(request.record.transcript))
        return RewardResult(value=1.0 - num_edits / num_words, facts=facts)


def quotes_of(text: str) -> list[list[str]]:
    """The words of each quote; an unclosed mark opens none."""
    return [words_of("".join(groups)) for groups in _QUOTE.findall(text)]


def edits_to_best_stretches(quotes: Sequence[Sequence[str]], transcript: Iterable[str]) -> int:
    """The summed word edits between each non-empty quote and its best stretch of the transcript.

    Source: Myers 1999, "A fast bit-vector algorithm for approximate string matching"; for several quotes, Hyyrö et
    al. 2005, "Increased bit-parallelism for approximate and multiple string matching".
    """
    # a column of the edit table is two integers with a bit per quoted word; carries and shifts stop at the last
    # word of a quote
    places: defaultdict[str, int] = defaultdict(int)
    last, num = 0, 0
    for quote in quotes:
        for word in quote:
            places[word] |= 1 << num
            num += 1
        last |= 1 << (num - 1)
    every = (1 << num) - 1
    not_last, not_first = every ^ last, every ^ (last << 1 | 1) & every
    rises, falls, fewest = every, 0, num
    # bit planes of a counter at the last bit of each quote: its edits in this column beyond its fewest so far
    above: list[int] = []
    for word in transcript:
        equal = places.get(word, 0)
        inner = rises & not_last
        same = (((equal & inner) + inner) ^ inner) | equal | falls
        up, down = falls | (every & ~(same | rises)), rises & same
        fewest -= _subtracted(above, down & last).bit_count()
        _add(above, up & last)
        up, down = (up << 1) & not_first, (down << 1) & not_first
        rises, falls = down | (every & ~(same | up)), up & same
    return fewest


def _add(planes: list[int], carry: int) -> None:
    for index, plane in enumerate(planes):
        if not carry:
            return
        planes[index], carry = plane ^ carry, carry & plane
    if carry:
        planes.append(carry)


def _subtracted(planes: list[int], borrow: int) -> int:
    """Subtracts 1 from the counters at these bits; returns those that were at 0, where they stay."""
    zero = borrow
    for plane in planes:
        zero &= ~plane
    borrow ^= zero
    for index, plane in enumerate(planes):
        planes[index], borrow = plane ^ borrow, borrow & ~plane
    return zero
