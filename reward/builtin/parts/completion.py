"""The parts of a completion, found in one pass: thought, sentences and words."""

import re

TAG = re.compile(r"</?[a-zA-Z][^<>]*+>")
"""Any tag, such as `<think>` or `</b>`, but not `a < b`."""
HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
"""Chinese characters, inside a regex class."""
_LETTERS = rf"[^\W_{HAN}]+"
_WORD = re.compile(rf"[{HAN}]|{_LETTERS}(?:'{_LETTERS})*")
_SENTENCE_END = re.compile(r"[.!?。！？；;\n]+")


def think_part(completion: str) -> str:
    """The text from the first `<think>` to `</think>`, `<answer>` or the end; empty without a `<think>`."""
    thought = completion.partition("<think>")[2]
    return thought.partition("</think>")[0].partition("<answer>")[0]


def sentences_of(text: str) -> list[str]:
    """Non-empty sentences, English or Chinese, without their full stops."""
    return [s for s in (part.strip() for part in _SENTENCE_END.split(text)) if s]


def words_of(text: str) -> list[str]:
    """Words in lower case with uniform apostrophes; every Chinese character is a word."""
    return _WORD.findall(text.lower().replace("’", "'"))
