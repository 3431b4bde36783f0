"""Built-in rewards that read labels: accuracy, its weights, annotators, several labels, consistency."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, DatasetError, ScoringError
from reward.builtin import BUILTIN
from reward.builtin.accuracy import AccuracyReward, ClassBalancedReward
from reward.builtin.consistency import ConsistencyReward
from reward.builtin.multi_label import MultiLabelReward
from reward.builtin.soft_label import SoftLabelReward
from tests.support.reward.requests import make_request, value_of


def answer(text: str, thought: str = "x") -> str:
    """A completion."""
    return f"<think>{thought}</think><answer>{text}</answer>"


@pytest.mark.parametrize(
    ("completion", "label", "taxonomy", "value"),
    [
        (answer("happy"), "happy", "dfew", 1.0),
        (answer(" Happiness.\n"), "happy", "dfew", 1.0),
        (answer("happy"), "Happiness", "dfew", 1.0),
        (answer("furious"), "anger", "mafw", 1.0),
        (answer("高兴"), "happy", "r1_omni", 1.0),
        (answer("He is not sad but angry"), "angry", "dfew", 1.0),
        (answer("sad"), "happy", "dfew", 0.0),
        # several, none, denied
        (answer("happy or sad"), "happy", "dfew", 0.0),
        (answer("not happy"), "happy", "dfew", 0.0),
        (answer(""), "happy", "dfew", 0.0),
        # the answer counts, not the thought; the whole text where there is no answer
        (answer("sad", thought="happy"), "happy", "dfew", 0.0),
        ("happy", "happy", "dfew", 1.0),
        ("<answer>happy", "happy", "dfew", 1.0),
        # the record's taxonomy decides
        (answer("nervous"), "worried", "mer", 1.0),
        (answer("calm"), "neutral", "dfew", 1.0),
        (answer("calm"), "neutral", "ravdess", 0.0),
        (answer("surprised and sad"), "sad_surprise", "mafw_compound", 1.0),
        (answer("sad"), "sad_surprise", "mafw_compound", 0.0),
        (answer("Wistful"), "wistful", "open", 1.0),
    ],
)
def test_accuracy_reads_answers_and_labels_by_one_table(
    completion: str, label: str, taxonomy: str, value: float
) -> None:
    assert AccuracyReward()(make_request(completion, label=label, taxonomy=taxonomy)) == value


@pytest.mark.parametrize("kind", ["accuracy", "multi_label_f1"])
def test_a_label_outside_its_taxonomy_is_an_error(kind: str) -> None:
    with pytest.raises(
        DatasetError, match="record clip-0: label must name a class of the taxonomy dfew, got 'calamity'"
    ):
        BUILTIN[kind]()(make_request(answer("happy"), label="calamity", taxonomy="dfew"))


# -- weights ----------------------------------------------------------------------------------------


def test_rare_classes_weigh_more_and_a_wrong_answer_nothing() -> None:
    reward = ClassBalancedReward(frequencies={"Happiness": 60, "sad": 30, "disgust": 10})
    weights = {label: reward(make_request(answer(label), label=label)) for label in ("happy", "sad", "disgust")}
    assert weights == pytest.approx({"happy": 1 / 1.8, "sad": 1 / 0.9, "disgust": 1 / 0.3})
    assert reward(make_request(answer("happy"), label="disgust")) == 0.0


def test_the_weighted_sum_is_that_of_the_recalls() -> None:
    """What `class_balanced` adds up over records is UAR, what `accuracy` adds up is WAR."""
    records = [("happy", "happy")] * 5 + [("happy", "sad")] + [("sad", "sad")] * 2 + [("sad", "happy")] * 2
    reward = ClassBalancedReward(frequencies={"happy": 6, "sad": 4})
    mean = statistics.fmean(reward(make_request(answer(said), label=label)) for label, said in records)
    assert mean == pytest.approx((5 / 6 + 2 / 4) / 2)


def test_a_class_without_a_frequency_is_an_error() -> None:
    with pytest.raises(DatasetError, match="must hold its class, got none for 'fear'; it has happy, sad"):
        ClassBalancedReward(frequencies={"happy": 1, "sad": 2})(make_request(answer("fear"), label="fear"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frequencies": {}}, "class_balanced.frequencies must have at least 1 item .*, got {}"),
        ({"frequencies": [1, 2]}, r"class_balanced.frequencies must be a valid dictionary, got \[1, 2\]"),
        ({"frequencies": {"happy": 0}}, "class_balanced.frequencies.happy must be greater than 0, got 0"),
        ({"frequencies": {"happy": "3"}}, "happy must be a valid number, got '3'"),
        ({"frequencies": {1: 3}}, "class_balanced.frequencies.1 must be a valid string, got 1"),
        ({"frequencies": {"happy": 1, "Happiness": 2}}, "must name each class once, got 'Happiness' for 'happy'"),
        (
            {"frequencies": {"happy": 1}, "cap": 0.5},
            "class_balanced.cap must be greater than or equal to 1, got 0.5",
        ),
        (
            {"frequencies": {"happy": 1}, "power": -1},
            "class_balanced.power must be greater than or equal to 0, got -1",
        ),
    ],
)
def test_frequencies_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ClassBalancedReward(**options)


# -- annotators and several labels ------------------------------------------------------------------

SHARES: Mapping[str, float] = {"happiness": 0.5, "joy": 0.1, "surprise": 0.3, "other": 0.1}


@pytest.mark.parametrize(
    ("said", "share"), [("happy", 0.6), ("surprised", 0.3), ("sad", 0.0), ("happy, surprised", 0.0), ("other", 0.0)]
)
def test_an_answer_is_worth_its_share_of_annotators(said: str, share: float) -> None:
    request = make_request(answer(said), label_distribution=SHARES)
    assert value_of(SoftLabelReward(normalise=False)(request)) == pytest.approx(share)
    assert value_of(SoftLabelReward()(request)) == pytest.approx(share / 0.6)


def test_without_a_distribution_there_is_no_share() -> None:
    assert value_of(SoftLabelReward()(make_request(answer("happy")))) is None
    assert value_of(SoftLabelReward()(make_request(answer("happy"), label_distribution={"other": 1.0}))) is None
    assert value_of(SoftLabelReward()(make_request(answer("happy"), label_distribution={"happy": 0.0}))) is None
    with pytest.raises(ConfigError, match=r"soft_label\.normalise must be a valid boolean, got 'yes'"):
        SoftLabelReward(normalise="yes")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("said", "labels", "value"),
    [
        ("sad and surprised", ("sadness", "surprise"), 1.0),
        ("sad", ("sad", "surprise"), 2 / 3),
        ("sad, angry, surprised", ("sad", "surprise"), 4 / 5),
        ("sad, not surprised", ("sad", "surprise"), 2 / 3),
        ("angry", ("sad", "surprise"), 0.0),
        ("", ("sad", "surprise"), 0.0),
        # the label alone where there is only one
        ("happy and sad", (), 2 / 3),
    ],
)
def test_several_labels_are_scored_by_f1(said: str, labels: tuple[str, ...], value: float) -> None:
    assert MultiLabelReward()(make_request(answer(said), labels=labels)) == pytest.approx(value)


def test_a_compound_label_is_its_parts() -> None:
    request = make_request(answer("sad"), label="sad_surprise", taxonomy="mafw_compound")
    assert MultiLabelReward()(request) == pytest.approx(2 / 3)


# -- consistency ------------------------------------------------------------------------------------

THOUGHT = "He looks sad. His lips tremble. He may be angry, or sad! He isn't happy? 他很难过。"
"""Names sadness, nothing, anger and sadness, nothing, sadness."""


@pytest.mark.parametrize(
    ("said", "credit", "value"),
    [
        ("sad", "share", (1 + 1 / 2 + 1) / 3),
        ("sad", "any", 1.0),
        ("angry", "share", (1 / 2) / 3),
        ("angry", "any", 1 / 3),
        ("happy", "any", 0.0),
        ("sad or angry", "any", 0.0),
    ],
)
def test_a_thought_agrees_with_the_answer_by_its_sentences(said: str, credit: Any, value: float) -> None:
    got = ConsistencyReward(credit=credit)(make_request(answer(said, thought=THOUGHT), label="happy"))
    assert value_of(got) == pytest.approx(value)


def test_a_thought_may_be_held_against_the_label() -> None:
    request = make_request(answer("happy", thought=THOUGHT), label="sadness")
    assert value_of(ConsistencyReward(against="label", credit="any")(request)) == 1.0


@pytest.mark.parametrize(
    "completion", [answer("sad", thought="His lips tremble."), "sad", "", answer("sad", thought="")]
)
def test_a_thought_without_emotions_agrees_with_nothing(completion: str) -> None:
    assert value_of(ConsistencyReward()(make_request(completion))) == 0.0


def tremble_is_fear(sentences: Sequence[str]) -> list[list[str]]:
    """A classifier that knows one sign."""
    return [["frightened"] if "tremble" in sentence else [] for sentence in sentences]


def test_another_classifier_may_read_the_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(answer("fear", thought=THOUGHT))
    assert value_of(ConsistencyReward()(request)) == 0.0
    assert value_of(ConsistencyReward(classifier=tremble_is_fear)(request)) == 1.0
    (tmp_path / "classifier_of_a_test.py").write_text("def classify(sentences): return [['fear']]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    options: dict[str, Any] = {"classifier": "classifier_of_a_test:classify"}
    named = ConsistencyReward(**options)
    assert value_of(named(make_request(answer("fear", thought="One sentence")))) == 1.0
    with pytest.raises(ScoringError, match="must give one collection per sentence, got 1 for 5"):
        named(request)


@pytest.mark.parametrize(
    ("classifier", "said"),
    [
        ("no_such_module:f", "must be importable, got 'no_such_module:f': ModuleNotFoundError"),
        ("json:no_such_name", "must be importable, got 'json:no_such_name': AttributeError"),
        ("json", "think_answer_consistency.classifier must be callable, got <module 'json'"),
        (5, "think_answer_consistency.classifier must be callable, got 5; see `python -m reward.check --list`"),
    ],
)
def test_a_classifier_that_cannot_be_called_is_refused(classifier: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ConsistencyReward(classifier=classifier)
