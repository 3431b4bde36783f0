"""The simplest reward: two texts in, a number out.

- {type: python, name: brevity, entrypoint: "reward.examples.brevity:brevity", weight: 0.2}
"""


def brevity(completion: str, label: str, max_words: int = 60) -> float:
    """1.0 up to a number of words, then decreasing."""
    num_words = len(completion.split())
    return min(1.0, max_words / max(1, num_words))
