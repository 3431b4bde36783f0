"""A reward for a thought that argues for what is answered."""

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import field
from typing import Literal, cast

from common.errors import ConfigError, ScoringError
from common.labels import classes_in, normalised
from reward.builtin.parts.completion import sentences_of, think_part
from reward.builtin.parts.options import builtin_reward
from reward.builtin.parts.record_classes import class_answered, class_of_label
from reward.request import RewardRequest, RewardResult

Classifier = Callable[[Sequence[str]], Sequence[Collection[str]]]
"""The emotions of each sentence, by whatever words; sentences without one have none."""


@builtin_reward("think_answer_consistency")
class ConsistencyReward:
    """The share of emotions in the thought that are the answered emotion.

    Formula: the mean over sentences with an emotion of the share of their distinct emotions that is the answer's
    (`credit: share`), or of 1[the answer's is among them] (`credit: any`). Denied emotions and those outside the
    taxonomy do not count. 0 if no sentence names an emotion, or the answer names no class: the policy chooses that,
    so the reward applies all the same.
    Range: 0 to 1.
    Source: ERV's `think_step` is `credit: any` with `against: label` and a RoBERTa of 28 emotions as classifier.
    Caution: with `credit: any` a sentence that lists every emotion agrees with all; a thought that only repeats the
    answer scores 1. The reward does not measure correctness: add `accuracy`, or set `against: label`.
    """

    against: Literal["answer", "label"] = "answer"
    """The reference of the thought: the answer (faithful), or the label (correct)."""
    credit: Literal["share", "any"] = "share"
    """The credit of a sentence with several emotions."""
    classifier: str | Classifier | None = None
    """Instead of the label table: a function or its `module:name`, from sentences to the emotions of each; they are
    read by the table."""
    _classify: Classifier | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        is_named = isinstance(self.classifier, str)
        object.__setattr__(self, "_classify", load_classifier(self.classifier) if is_named else self.classifier)

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
        if self._classify is None:
            return [set(classes_in(sentence, taxonomy)) for sentence in sentences]
        answers = self._classify(sentences)
        if len(answers) != len(sentences):
            raise ScoringError(
                f"think_answer_consistency.classifier must give one collection per sentence, got {len(answers)} "
                f"for {len(sentences)}; mend {self.classifier!r}"
            )
        return [{name for e in each if (name := normalised(e, taxonomy)) is not None} for each in answers]


def load_classifier(entrypoint: object) -> Classifier:
    """Imports `module:name`; raises `ConfigError`."""
    module, _, name = str(entrypoint).partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"think_answer_consistency.classifier must be importable, got {entrypoint!r}: {reason}; mend the module"
        ) from error
    if not callable(function):
        raise ConfigError(
            f"think_answer_consistency.classifier must name a function, got {entrypoint!r}; write module:name"
        )
    return cast(Classifier, function)
