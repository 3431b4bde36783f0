"""The paper's format reward, as published."""

from common.labels import has_form


def format_reward(completion: str, label: str) -> float:
    """1.0 when the whole completion is one `<think>` block and one `<answer>` block, else 0.0."""
    return 1.0 if has_form(completion) else 0.0
