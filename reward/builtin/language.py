"""A reward for text in the expected script."""

import re
from typing import Literal

from reward.builtin.parts.completion import HAN, TAG, think_part
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest

_LETTERS = re.compile(r"[^\W\d_]+")
_SCRIPTS = {
    "en": re.compile(r"[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff]+"),
    "zh": re.compile(f"[{HAN}]+"),
}


@builtin_reward("language")
class LanguageReward:
    """The share of letters that are of the expected script.

    Formula: letters of the script / letters, without tags. 0 without a letter. Range: 0 to 1.
    Source: the language consistency reward of DeepSeek-R1 (2025, section 2.3.2), by letters instead of words.
    Caution: a script is not a language: French counts as `en`, and Japanese kanji as `zh`.
    """

    language: Literal["en", "zh"] = "en"
    """`en` for Latin letters, `zh` for Chinese characters."""
    part: Literal["completion", "think"] = "completion"
    """Part whose letters count: `think` allows an English label after a Chinese thought."""

    def __call__(self, request: RewardRequest) -> float:
        text = think_part(request.completion) if self.part == "think" else request.completion
        letters = "".join(_LETTERS.findall(TAG.sub(" ", text)))
        num_fitting = sum(map(len, _SCRIPTS[self.language].findall(letters)))
        return num_fitting / len(letters) if letters else 0.0
