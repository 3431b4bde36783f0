"""Built-in rewards on texts that nobody would write: as published, never raising, in one pass."""

import math
from typing import Any

import pytest

from common.labels import ANSWER, FORMAT, answered, has_form
from common.types import Modality
from reward.builtin import BUILTIN
from reward.builtin.parts.completion import sentences_of, think_part, words_of
from tests.support.reward.hard_texts import long_texts, random_texts
from tests.support.reward.requests import make_request, value_of

NUM_TEXTS = 2000
OPTIONS: dict[str, dict[str, Any]] = {"class_balanced": {"frequencies": {"happy": 3, "sad": 1}}}
RANGES = {
    "class_balanced": (0, 10),
    "evidence": (-1, 1),
    "length": (-1, 0),
    "repetition": (-1, 0),
}
ALONE = [name for name in BUILTIN if name not in ("judge", "modality_gain")]
"""What needs nobody else to score."""
OF_LABELS = {"accuracy", "class_balanced", "soft_label", "multi_label_f1", "think_answer_consistency", "wheel_f1"}


def published_form(text: str) -> bool:
    """The rule of the paper's format reward, read off character by character."""
    if text[:7] != "<think>":
        return False
    for at in range(7, len(text)):
        if text[at : at + 8] == "</think>":
            rest = text[at + 8 :].lstrip()
            if rest[:8] == "<answer>" and rest[8:][-9:] == "</answer>":
                return True
    return False


def published_answer(text: str) -> str:
    """The rule of the paper's accuracy reward, line by line."""
    for line in text.split("\n"):
        _, tag, rest = line.partition("<answer>")
        if tag and "</answer>" in rest:
            return rest[: rest.index("</answer>")].strip()
    return text.strip()


def test_the_published_form_is_kept_to_the_letter() -> None:
    reward = BUILTIN["format_r1omni"]()
    found: list[bool] = []
    for text in random_texts(NUM_TEXTS, seed=1):
        found.append(published_form(text))
        assert reward(make_request(text)) == float(found[-1]), text
        assert bool(FORMAT.fullmatch(text)) is found[-1], text
    assert 200 < sum(found) < NUM_TEXTS - 200


def test_the_published_accuracy_is_kept_to_the_letter() -> None:
    reward = BUILTIN["accuracy_r1omni"]()
    num_right = 0
    for text in random_texts(NUM_TEXTS, seed=2):
        answer = published_answer(text)
        for label in ("happy", "高兴", "", answer):
            is_right = answer == published_answer(label)
            num_right += is_right and label in ("happy", "高兴")
            assert reward(make_request(text, label=label)) == float(is_right), text
    assert num_right > 20


def test_an_answer_is_that_of_the_expression() -> None:
    for text in random_texts(NUM_TEXTS, seed=3):
        match = ANSWER.search(text)
        assert answered(text) == (match[1] if match else text).strip()


def test_the_strict_form_is_stricter() -> None:
    strict, published = BUILTIN["format"](), BUILTIN["format_r1omni"]()
    values = [(strict(r), published(r)) for r in map(make_request, random_texts(NUM_TEXTS, seed=4))]
    assert (1.0, 1.0) in values
    assert (0.0, 1.0) in values
    # white space around is all that it allows beyond
    outside = [make_request(f"\n{t.strip()} ") for t in random_texts(NUM_TEXTS, seed=4)]
    assert all(strict(r) <= published(make_request(r.completion.strip())) for r in outside)


@pytest.mark.parametrize("modalities", [("video", "audio"), ("video",), ("audio",), ()])
@pytest.mark.parametrize("name", ALONE)
def test_no_text_makes_a_reward_raise_or_leave_its_range(name: str, modalities: tuple[Modality, ...]) -> None:
    reward = BUILTIN[name](**OPTIONS.get(name, {}))
    low, high = RANGES.get(name, (0, 1))
    is_none: set[bool] = set()
    for text in random_texts(NUM_TEXTS if len(modalities) == 2 else NUM_TEXTS // 10, seed=5):
        request = make_request(
            text,
            labels=("sad", "happy"),
            label_distribution={"happy": 0.7, "sad": 0.3},
            transcript="I am so tired, 我很累",
            modalities=modalities,
            token_ids=(1,) * len(text),
        )
        value = value_of(reward(request))
        is_none.add(value is None)
        assert value is None or (math.isfinite(value) and low <= value <= high), text
    # whether a reward applies is not for the completion to say
    assert len(is_none) == 1


@pytest.mark.parametrize("name", ALONE)
def test_what_a_record_lacks_takes_a_reward_from_the_whole_group(name: str) -> None:
    reward = BUILTIN[name](**OPTIONS.get(name, {}))
    texts = [*random_texts(100, seed=6), '<think>"I am so tired"</think><answer>happy</answer>', "x"]
    is_none = {value_of(reward(make_request(text, token_ids=(1,)))) is None for text in texts}
    assert is_none == {name in ("soft_label", "transcript_wer")}


# a pass that is not linear takes hours over these: the time-out of the suite ends it


OF_TAGS = ["format", "format_r1omni", "accuracy_r1omni", "length"]
HARD_TO_SPLIT = ["<", "<a", "<think>", '"', "“", "a'", "a ", "not ", "没有"]


@pytest.mark.parametrize("name", [name for name in ALONE if name not in OF_LABELS])
def test_a_million_characters_are_read_in_one_pass(name: str) -> None:
    reward = BUILTIN[name](**OPTIONS.get(name, {}))
    low, high = RANGES.get(name, (0, 1))
    of_words = [f"<think>{piece * (1_000_000 // len(piece))}" for piece in HARD_TO_SPLIT]
    for text in long_texts(1_000_000) if name in OF_TAGS else of_words:
        request = make_request(text, transcript="I am so tired", modalities=("video",), token_ids=(1,))
        value = value_of(reward(request))
        assert value is not None
        assert low <= value <= high


def test_the_parts_of_a_million_characters_are_found_in_one_pass() -> None:
    for text in long_texts(1_000_000):
        assert len(answered(text)) <= len(text)
        assert not has_form(text) or text.startswith("<think>")
        assert think_part(text) in text
    for text in long_texts(100_000):
        assert sum(map(len, sentences_of(text))) <= len(text)
        assert sum(map(len, words_of(text))) <= 2 * len(text)


@pytest.mark.parametrize("name", sorted(OF_LABELS & {*BUILTIN}))
def test_long_texts_are_read_by_the_label_table(name: str) -> None:
    reward = BUILTIN[name](**OPTIONS.get(name, {}))
    for text in long_texts(3000):
        value = value_of(reward(make_request(text, label_distribution={"happy": 1.0})))
        assert value is not None
        assert 0 <= value <= 4
