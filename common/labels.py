"""Taxonomies, the form of an answer, what counts as one, and which emotions a text names.

python -m common.labels "not sad but furious"     what the table makes of a text
"""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

from common.emotions import show
from common.emotions.folding import folded
from common.emotions.mentions import Mention as Mention
from common.emotions.mentions import lemma as lemma
from common.emotions.mentions import mentions, named
from common.errors import ConfigError

DFEW = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
DFEW_ORDER = DFEW
"""Classes by id: 1-based in DFEW's own files, 0-based in the lists of others."""
R1_OMNI = (*DFEW, "contemptuous", "disappointed", "helpless", "anxious")
"""DFEW's seven and MAFW's four more, in the adjective forms of R1-Omni's evaluation script."""
MAFW = (*sorted(DFEW), "contemptuous", "anxious", "helpless", "disappointed")
MAFW_ORDER = MAFW
"""Classes by id: 1-based in MAFW's own files, 0-based in the lists of others."""
_COMPOUNDS = """
    1+2 1+6 1+7 1+9 1+10 2+6 2+7 2+8 2+9 2+10 2+11 3+6 3+7 3+9 4+7 4+8 6+7 6+9 6+10 6+11 7+9 9+10 10+11
    1+2+8 1+2+9 2+9+10 2+10+11 3+6+9 3+7+9 6+9+10 6+10+11 9+10+11
"""
MAFW_COMPOUND = (
    *MAFW,
    *("_".join(MAFW[int(number) - 1] for number in compound.split("+")) for compound in _COMPOUNDS.split()),
)
"""The 43 classes of MAFW's compound benchmark: the eleven, and its 32 combinations in the order of the ids, joined
as in its multi set (`sadness_surprise` is `sad_surprise`)."""
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
RAVDESS_ORDER = RAVDESS
"""Classes by 1-based id."""
RAVDESS7 = tuple(name for name in RAVDESS if name != "calm")
"""The classes of zero-shot evaluations, which leave out clips of calm."""
MER = ("neutral", "angry", "happy", "sad", "worried", "surprise")
TAXONOMIES: Mapping[str, tuple[str, ...] | None] = MappingProxyType(
    {
        "dfew": DFEW,
        "mafw": MAFW,
        "mafw_compound": MAFW_COMPOUND,
        "r1_omni": R1_OMNI,
        "ravdess": RAVDESS,
        "ravdess7": RAVDESS7,
        "mer": MER,
        "open": None,
    }
)
"""Taxonomies by name; `open` takes any label."""
FOLDS: Mapping[str, str] = MappingProxyType(
    {
        "calm": "neutral",
        "worried": "anxious",
        "anxious": "worried",
        "excited": "happy",
        "amused": "happy",
        "satisfied": "happy",
    }
)
"""Substitutes for emotions outside a taxonomy. Calm is RAVDESS's second baseline beside neutral (Livingstone and
Russo, 2018); excitement, amusement and satisfaction are kinds of joy (Shaver et al., 1987). Emotions between two
classes, such as frustration, have none.
"""
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
"""The paper's form of a whole answer; `has_form` is the same in linear time."""
_SEAM = re.compile(r"</think>\s*+<answer>")


def has_form(completion: str) -> bool:
    """True if the completion has the published form: R1-Omni, `grpo.py`, `format_reward`, which accepts repeated,
    nested and empty tags.
    """
    # neither end can overlap the seam
    has_ends = completion.startswith("<think>") and completion.endswith("</answer>")
    return has_ends and _SEAM.search(completion) is not None


def answer_block(text: str) -> str | None:
    """The content of the first `<answer>`, stripped; None without one. Same as `ANSWER`, in linear time."""
    start = text.find("<answer>")
    end = text.find("</answer>", start) if start >= 0 else -1
    return None if end < 0 else text[start + len("<answer>") : end].strip()


def answered(text: str) -> str:
    """The first `<answer>`, or the whole text without one; stripped."""
    block = answer_block(text)
    return text.strip() if block is None else block


def readable_answer(text: str) -> str:
    """The answer for the label table; empty for a thought without an `<answer>`.

    A text without a thought is itself the answer.
    """
    is_thought = answer_block(text) is None and "<think>" in text
    return "" if is_thought else answered(text)


def answer_of(completion: str) -> str:
    """The answer that an evaluation compares, in lower case.

    Case and line breaks, which the paper's reward compares, do not matter.
    """
    return answered(completion).lower()


def classes_of(taxonomy: str) -> tuple[str, ...] | None:
    """The classes of a taxonomy; None for `open`. Raises `ConfigError` for an unknown taxonomy."""
    if taxonomy not in TAXONOMIES:
        raise ConfigError(
            f"a taxonomy must be one of {', '.join(TAXONOMIES)}, got {taxonomy!r}; choose the one of the labels"
        )
    return TAXONOMIES[taxonomy]


@cache
def _class_by_emotion(taxonomy: str) -> dict[str, str]:
    classes = classes_of(taxonomy) or ()
    class_of = {name: name for name in classes if "_" not in name}
    # a clip of calm is left out there: it must not come back as neutral
    left_out = {"calm"} if taxonomy == "ravdess7" else set[str]()
    return {
        **{emotion: name for emotion, name in FOLDS.items() if name in class_of and emotion not in left_out},
        **class_of,
    }


def classes_in(text: str, taxonomy: str) -> tuple[str, ...]:
    """The classes that a text names and does not deny, by first mention; a compound class as its parts.

    Raises:
        ConfigError: the taxonomy is unknown.
    """
    if classes_of(taxonomy) is None:
        return named(text)
    class_by_emotion = _class_by_emotion(taxonomy)
    return tuple(dict.fromkeys(class_by_emotion[name] for name in named(text) if name in class_by_emotion))


def normalised(text: str, taxonomy: str) -> str | None:
    """The single class that a label or short answer names; None for none or several.

    Several parts of a compound class name that class. In `open`, an unknown single word is its own class, in lower
    case. Pass an answer without its tags, as `answered` returns it.

    Raises:
        ConfigError: the taxonomy is unknown.
    """
    return _remembered(text, taxonomy) if len(text) <= MAX_REMEMBERED else _normalised(text, taxonomy)


MAX_REMEMBERED = 256
"""Longest text whose class is cached."""


def _normalised(text: str, taxonomy: str) -> str | None:
    classes = classes_of(taxonomy)
    folded_text = folded(text).strip()
    if classes is not None and folded_text in classes:
        return folded_text
    named_classes = classes_in(text, taxonomy)
    if taxonomy == "mafw_compound":
        compound = "_".join(sorted(named_classes, key=MAFW_ORDER.index))
        return compound if compound in MAFW_COMPOUND else None
    if classes is None and not named_classes and not mentions(text):
        word = folded_text.strip(" \t\n.,;:!?\"'*。")
        return word if word.isalpha() else None
    return named_classes[0] if len(named_classes) == 1 else None


_remembered = lru_cache(maxsize=65_536)(_normalised)


def reading_of(text: str, taxonomies: Sequence[str]) -> dict[str, Any]:
    """The mentions in a text, and its classes by taxonomy, as JSON values; raises `ConfigError`."""
    return {
        "text": text,
        "mentions": [
            {
                "start": each.start,
                "end": each.end,
                "surface": each.surface,
                "emotion": each.emotion,
                "is_negated": each.is_negated,
            }
            for each in mentions(text)
        ],
        "classes": {
            name: {"normalised": normalised(text, name), "named": list(classes_in(text, name))}
            for name in taxonomies
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    return show.run(argv, read=reading_of, taxonomies=list(TAXONOMIES))


if __name__ == "__main__":
    sys.exit(main())
