"""A reward for quoting what was said as it was said."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from reward.builtin.options import check_count, check_number
from reward.builtin.parts import think_part, words_of
from reward.request import RewardRequest, RewardResult

_QUOTE = re.compile(r'"([^"\n]*+)"|“([^“”]*+)”|「([^「」]*+)」|『([^『』]*+)』')


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptReward:
    """How well the speech quoted in the thought is that of the transcript.

    Formula: 1 - WER. The WER is the sum over quotes of the word edits to the stretch of the transcript that fits a
    quote best, over the words quoted. A Chinese character is a word; case and punctuation do not count. Quotes are
    marked by double quotation marks, straight (within a line) or curved, or by corner brackets; shorter ones than
    `min_words` are emphasis, not speech.
    Range: 0 to 1; `without_quotes` where nothing is quoted.
    Source: R1-Omni lists wrong subtitles among its limits; Video-R1 rewards read text by clip(1 - WER, 0, 1).
    Needs: `Record.transcript`; None without one. An empty transcript says that nothing is said: any quote is wrong.
    Caution: a short safe quote scores as well as a long one. Half the range for no quotes makes silence better
    than invention and worse than a true quote; 0 would make inventing free.
    """

    min_words: int = 2
    """Words from which a quote counts as speech."""
    without_quotes: float = 0.5
    """Value of a completion that quotes nothing."""

    def __post_init__(self) -> None:
        check_count("transcript_wer.min_words", self.min_words, low=1)
        check_number("transcript_wer.without_quotes", self.without_quotes, low=0, high=1)

    def __call__(self, request: RewardRequest) -> RewardResult:
        if request.record.transcript is None:
            return RewardResult(value=None, detail="the record has no transcript")
        quotes = [q for q in quotes_of(think_part(request.completion)) if len(q) >= self.min_words]
        if not quotes:
            return RewardResult(value=self.without_quotes, detail="nothing is quoted")
        said = words_of(request.record.transcript)
        num_edits = sum(edits_to_best_stretch(quote, said) for quote in quotes)
        num_words = sum(map(len, quotes))
        return RewardResult(value=1.0 - num_edits / num_words, facts={"quoted_words": float(num_words)})


def quotes_of(text: str) -> list[list[str]]:
    """The words of each quote; a mark that is never closed opens none."""
    return [words_of("".join(groups)) for groups in _QUOTE.findall(text)]


def edits_to_best_stretch(quote: Sequence[str], said: Sequence[str]) -> int:
    """Fewest words to insert, delete or replace that make a quote a stretch of what was said, perhaps an empty one.

    Myers 1999 ("A fast bit-vector algorithm for approximate string matching"): a column of the edit table is two
    integers, one bit for each word quoted, so a quote of a million words costs a few operations per word said.
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for index, word in enumerate(quote):
        places[word].append(index)
    num = len(quote)
    every, last = (1 << num) - 1, 1 << (num - 1)
    masks = {word: _bits(places[word], num) for word in set(said) if word in places}
    rises, falls, edits = every, 0, num
    fewest = edits
    for word in said:
        equal = masks.get(word, 0)
        same = (((equal & rises) + rises) ^ rises) | equal | falls
        up, down = falls | (every & ~(same | rises)), rises & same
        edits += bool(up & last) - bool(down & last)
        fewest = min(fewest, edits)
        up, down = (up << 1) & every, (down << 1) & every
        rises, falls = down | (every & ~(same | up)), up & same
    return fewest


def _bits(places: Sequence[int], num: int) -> int:
    """An integer of these bits, in time linear in `num`."""
    if len(places) < 8:
        return sum(1 << place for place in places)
    digits = bytearray(b"0") * num
    for place in places:
        digits[num - 1 - place] = 49
    return int(digits.decode(), 2)
