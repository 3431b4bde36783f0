"""A reward for a thought whose emotions agree with the answer."""

import pkgutil
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from pydantic import field_validator

from common.errors import ConfigError, ScoringError
from common.labels import classes_in, normalised
from reward.builtin.parts.completion import sentences_of, think_part
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_answered, class_of_label
from reward.request import RewardRequest, RewardResult

Classifier = Callable[[Sequence[str]], Sequence[Collection[str]]]
"""The emotions of each sentence, in any words; empty for a sentence without emotions."""


@builtin_reward("think_answer_consistency")
class ConsistencyReward:
    """The agreement of the emotions in the thought with the answer.

    Formula: the mean over sentences with an emotion of the answer's share of their distinct emotions, or with
    `credit: any` of 1[the answer is one of them]. Denied emotions and those outside the taxonomy do not count.
    0 without such a sentence, or for an answer with no class or several. Range: 0 to 1.
    Source: ERV's `think_step` is `credit: any` with `against: label` and a RoBERTa of 28 emotions as classifier.
    Caution: a thought that only repeats the answer scores 1, so add `accuracy` or set `against: label`. With
    `credit: any` a sentence that lists every emotion agrees with all.
    """

    against: Literal["answer", "label"] = "answer"
    """Compare the thought with the answer (faithful) or the label (right)."""
    credit: Literal["share", "any"] = "share"
    """Value of a sentence with several emotions."""
    classifier: Classifier | None = None
    """Function, or its `module:name`, from sentences to the emotions of each; None for the label table."""

    @field_validator("classifier", mode="before")
    @staticmethod
    def a_classifier_can_be_imported(classifier: object) -> object:
        if not isinstance(classifier, str):
            return classifier
        try:
            return pkgutil.resolve_name(classifier)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(
                f"think_answer_consistency.classifier must be importable, got {classifier!r}: {reason}; write "
                "module:name, or correct the module"
            ) from error

    def __call__(self, request: RewardRequest) -> RewardResult:
        taxonomy = request.record.taxonomy
        is_answer = self.against == "answer"
        wanted = class_answered(request.completion, taxonomy) if is_answer else class_of_label(request.record)
        named = [emotions for emotions in self._emotions(think_part(request.completion), taxonomy) if emotions]
        facts = {"sentences": float(len(named))}
        if wanted is None or not named:
            return RewardResult(value=0.0, detail="no answer, or no emotion in the thought", facts=facts)
        credits = [(wanted in e) / (len(e) if self.credit == "share" else 1) for e in named]
        return RewardResult(value=sum(credits) / len(credits), facts=facts)

    def _emotions(self, thought: str, taxonomy: str) -> list[set[str]]:
        sentences = sentences_of(thought)
        if self.classifier is None:
            return [set(classes_in(sentence, taxonomy)) for sentence in sentences]
        answers = self.classifier(sentences)
        if len(answers) != len(sentences):
            raise ScoringError(
                f"think_answer_consistency.classifier must give one collection per sentence, got {len(answers)} "
                f"for {len(sentences)}; correct {self.classifier!r}"
            )
        return [{name for e in each if (name := normalised(e, taxonomy)) is not None} for each in answers]
