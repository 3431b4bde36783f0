"""The form of an answer with its reasons."""

import re

TEMPLATE = "<think>{reason}</think>\n<answer>{label}</answer>"
"""R1-Omni's form of a cold-start answer."""
THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
TAGS = re.compile(r"</?(?:think|answer)>")


def explained(reason: str, *, label: str) -> str:
    """An answer in the form of the cold start; an answer in this form is unchanged."""
    if THINK.search(reason):
        return reason
    return TEMPLATE.format(reason=TAGS.sub("", reason).strip(), label=label)
