"""Checks answers for the cold start: their form, their label, and the consistency of reasons and label."""

import re

from common.datasets.explanations import TAGS, THINK
from common.labels import answered, classes_in, has_form, normalised

SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s*")


def fault_of(completion: str, *, labels: tuple[str, ...], taxonomy: str) -> str | None:
    """The first fault of a completion, or None.

    `format`: not one think block with words and one answer block; `answer`: none of the clip's labels;
    `unmentioned`: the reasons do not name the answer's emotion, or deny it; `contrary`: the last sentence with an
    emotion names only others.
    """
    text = completion.strip()
    # the form comes first: with it, the search ends at its first `<think>`
    think = THINK.search(text) if has_form(text) and len(TAGS.findall(text)) == 4 else None
    if think is None or not think[1].strip():
        return "format"
    answer = normalised(answered(text), taxonomy)
    if answer is None or answer not in labels:
        return "answer"
    named = [classes for s in SENTENCE_END.split(think[1]) if (classes := classes_in(s, taxonomy))]
    if not any(answer in classes for classes in named):
        return "unmentioned"
    return None if answer in named[-1] else "contrary"
