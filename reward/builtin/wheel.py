"""A reward for open vocabularies: words count as alike where they lie at one place of an emotion wheel."""

import re
from collections.abc import Iterable
from dataclasses import field

from pydantic import Field

from common.emotions.wheel import Wheel
from common.errors import DatasetError
from common.labels import mentions, readable_answer
from reward.builtin.multi_label import set_f1
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest

_TERM = re.compile(r"[^,;/&+\n，；、]+")


@builtin_reward("wheel_f1")
class WheelReward:
    """F1 of the answer's places on an emotion wheel against those of the labels.

    Formula: 2 |A & L| / (|A| + |L|), over places of `level` 1 (joy, anger, ...) or 2 (rage, annoyance, ...). A term
    between commas without a place is its own place, so that every term costs; denied emotions do not count.
    Range: 0 to 1.
    Source: the set F1 of AffectGPT's emotion wheels and of `affect_r1`, over one wheel: Plutchik's, or a file.
    Needs: labels in any words; `wheel` may name a file in the form of `common/emotions/wheel.json`.
    Caution: level 1 equates annoyance and rage; with a taxonomy of classes `accuracy` is sharper.
    """

    level: int = Field(default=1, ge=1, le=2)
    """Level of the places: 1 for primary emotions, 2 for intensities."""
    wheel: str | None = None
    """Path of another wheel; None for Plutchik's."""
    _wheel: Wheel = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wheel", Wheel.load(self.wheel))

    def __call__(self, request: RewardRequest) -> float:
        record = request.record
        expected = self._places(record.labels or (record.label,))
        if not expected:
            raise DatasetError(
                f"record {record.prompt_id}: label must name an emotion, got {record.label!r}; mend the label"
            )
        return set_f1(self._places((readable_answer(request.completion),)), expected)

    def _places(self, texts: Iterable[str]) -> set[str]:
        return {place for text in texts for place in self._places_in(text)}

    def _places_in(self, text: str) -> set[str]:
        named_emotions = mentions(text)
        named = {
            self._place(m.surface) or self._place(m.emotion) or m.emotion
            for m in named_emotions
            if not m.is_negated
        }
        ends = iter([*(m.end for m in named_emotions), len(text) + 1])
        end = next(ends)
        for term in _TERM.finditer(text):
            while end <= term.start():
                end = next(ends)
            if end > term.end() and (word := term[0].strip(" \t.!?。！？\"'")):
                named.add(self._place(word) or word.lower())
        return named

    def _place(self, word: str) -> str | None:
        return self._wheel.level1(word) if self.level == 1 else self._wheel.level2(word)
