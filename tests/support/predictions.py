"""Predictions in files, with only what a test cares about spelled out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def line(name: str, label: str = "sad", said: str = "sad", **more: Any) -> dict[str, Any]:
    """One answer of DFEW's first fold, in the paper's form."""
    text = f"<think>Hm.</think>\n<answer>{said}</answer>"
    return {"id": name, "dataset": "dfew", "fold": 1, "label": label, "text": text} | more


def without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """All but these."""
    return {name: value for name, value in values.items() if name not in names}


def write_lines(path: Path, lines: Iterable[Mapping[str, Any] | str]) -> Path:
    """JSON lines, and texts as they are."""
    texts = (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def some_lines(answers: Sequence[tuple[str, str]], **more: Any) -> list[dict[str, Any]]:
    """A line for each label and what was said."""
    return [line(f"{i:05d}", label, said, **more) for i, (label, said) in enumerate(answers)]
