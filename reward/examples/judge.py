"""A class with expensive state, such as a model on a GPU: constructed once in each Ray actor.

- {type: actor, name: judge, entrypoint: "reward.examples.judge:Judge", num_cpus: 1, replicas: 2,
   options: {words: [tears, sob, frown]}}
"""

from collections.abc import Sequence

from reward.request import RewardRequest


class Judge:
    """Counts words, in place of a model."""

    def __init__(self, *, words: Sequence[str]) -> None:
        # here a model would be loaded, on the GPU that `num_gpus: 1` gives the actor
        self._words = tuple(words)

    def score(self, requests: Sequence[RewardRequest]) -> list[float]:
        """Share of the words that each completion uses, for a whole group in one call."""
        return [sum(word in r.completion.lower() for word in self._words) / len(self._words) for r in requests]
