"""The record of a rehearsal, by which engines that start later are rehearsed without the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.types import TensorReceipt
from learner.publishing.probe import Answers
from learner.publishing.trial import Layer, Trial
from learner.publishing.verification import Logprobs, minus

MIN_AGREEMENT = 0.5
"""Least share of a probe's recorded tokens that an engine must sample again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedTrial:
    """One noise, one engine's answers under it, and their evaluation by the ranks."""

    nonce: int
    scale: float
    manifest: tuple[TensorReceipt, ...]
    """The noisy tensors."""
    answers: Answers
    scores: Logprobs
    """The ranks' log-probabilities of the answers."""
    signatures: dict[Layer, Logprobs]
    tolerance: float

    def trial_of(self, answers: Answers) -> Trial | None:
        """The trial of another engine, over the tokens before its first deviation in each completion.

        None if the engine deviates from more than half of the tokens of a probe.
        """
        recorded, sampled = self._common_tokens(answers)
        if any(len(common) < MIN_AGREEMENT * len(row) for common, row in zip(recorded, self.scores, strict=True)):
            return None
        return Trial(
            differences=minus(_chosen(answers.logprobs, sampled), _chosen(self.scores, recorded)),
            signatures={layer: _chosen(signature, recorded) for layer, signature in self.signatures.items()},
            tolerance=self.tolerance,
        )

    def _common_tokens(self, answers: Answers) -> tuple[list[list[int]], list[list[int]]]:
        """Positions of the common tokens in the rows of the record and of the answers, by probe."""
        recorded: list[list[int]] = []
        sampled: list[list[int]] = []
        for group, other in zip(self.answers.completions, answers.completions, strict=True):
            first, second = 0, 0
            recorded.append([])
            sampled.append([])
            for a, b in zip(group, other, strict=True):
                common = _num_common(a.token_ids, b.token_ids)
                recorded[-1] += range(first, first + common)
                sampled[-1] += range(second, second + common)
                first, second = first + len(a.token_ids), second + len(b.token_ids)
        return recorded, sampled


@dataclass(kw_only=True, slots=True)
class RehearsalRecord:
    """The trials of one rehearsal, in order; empty before it.

    It stays valid as long as engines start from the checkpoint that the ranks held then.
    """

    trials: list[RecordedTrial] = field(default_factory=list[RecordedTrial])


def _num_common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _chosen(rows: Logprobs, positions: Sequence[Sequence[int]]) -> Logprobs:
    return [[row[i] for i in chosen] for row, chosen in zip(rows, positions, strict=True)]
