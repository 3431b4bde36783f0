"""A reward for open vocabularies: words at one place of an emotion wheel are equal."""

import re
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
    """F1 of the places of the answer on an emotion wheel against those of the labels.

    Formula: 2 |A & L| / (|A| + |L|), over places of `level` 1 (joy, anger, ...) or 2 (rage, annoyance, ...). An
    unknown term between commas is a separate place; denied emotions do not count. Range: 0 to 1.
    Source: the set F1 of AffectGPT's emotion wheels and of `affect_r1`, over Plutchik's wheel or that of a file.
    Caution: level 1 equates annoyance with rage; with a taxonomy of classes `accuracy` is sharper.
    """

    level: int = Field(default=1, ge=1, le=2)
    """Level of the places, 1 or 2."""
    wheel: str | None = None
    """Path of a wheel in the form of `common/emotions/wheel.json`; None for Plutchik's."""
    _wheel: Wheel = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wheel", Wheel.load(self.wheel))

    def __call__(self, request: RewardRequest) -> float:
        record = request.record
        expected = {place for label in record.labels or (record.label,) for place in self._places(label)}
        if not expected:
            raise DatasetError(
                f"record {record.prompt_id}: label must name an emotion, got {record.label!r}; correct the label"
            )
        return set_f1(self._places(readable_answer(request.completion)), expected)

    def _places(self, text: str) -> set[str]:
        emotions = mentions(text)
        named = {
            self._place(e.surface) or self._place(e.emotion) or e.emotion for e in emotions if not e.is_negated
        }
        # unknown terms are those in which no mention ends
        ends = iter([*(e.end for e in emotions), len(text) + 1])
        end = next(ends)
        for term in _TERM.finditer(text):
            while end <= term.start():
                end = next(ends)
            if end > term.end() and (word := term[0].strip(" \t.!?。！？\"'")):
                named.add(self._place(word) or word.lower())
        return named

    def _place(self, word: str) -> str | None:
        return self._wheel.level1(word) if self.level == 1 else self._wheel.level2(word)
