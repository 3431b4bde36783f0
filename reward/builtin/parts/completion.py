"""The parts of a completion, found in one pass: what was thought, its sentences and words."""

import re

TAG = re.compile(r"</?[a-zA-Z][^<>]*+>")
"""Any tag, such as `<think>` or `</b>`; `a < b` has none."""
HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
"""Chinese characters, for a class of an expression."""
_LETTERS = rf"[^\W_{HAN}]+"
WORD = re.compile(rf"[{HAN}]|{_LETTERS}(?:'{_LETTERS})*")
"""A word with its apostrophes, or one Chinese character."""
_SENTENCE_END = re.compile(r"[.!?。！？；;\n]+")


def think_part(completion: str) -> str:
    """The text after the first `<think>`, up to `</think>`, `<answer>` or the end; empty without a `<think>`.

    A truncated completion has a thought without an end.
    """
    start = completion.find("<think>")
    if start < 0:
        return ""
    start += len("<think>")
    ends = [end for end in (completion.find("</think>", start), completion.find("<answer>", start)) if end >= 0]
    return completion[start : min(ends)] if ends else completion[start:]


def sentences_of(text: str) -> list[str]:
    """Non-empty sentences, English or Chinese, without their full stops."""
    return [s for s in (part.strip() for part in _SENTENCE_END.split(text)) if s]


def words_of(text: str) -> list[str]:
    """Words in lower case with uniform apostrophes; every Chinese character is a word."""
    return WORD.findall(text.lower().replace("’", "'"))
