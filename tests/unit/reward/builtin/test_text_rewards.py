"""Built-in rewards that read the text alone: form, length, repetition, script, quotes, cues."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.labels import answered
from common.types import Modality
from reward.builtin import transcript
from reward.builtin.evidence import EvidenceReward
from reward.builtin.format import FormatReward
from reward.builtin.language import LanguageReward
from reward.builtin.length import LengthPenalty
from reward.builtin.parts.class_weights import class_weights
from reward.builtin.parts.completion import sentences_of, think_part, words_of
from reward.builtin.parts.cues import AUDIBLE, SEEN_AND_HEARD, VISIBLE
from reward.builtin.repetition import RepetitionPenalty
from reward.builtin.transcript import MAX_QUOTED, TranscriptReward, edits_to_best_stretches
from reward.request import RewardResult
from tests.support.reward.requests import make_request, value_of


@pytest.mark.parametrize(
    ("completion", "thought", "answer"),
    [
        ("<think>a</think><answer> b </answer>", "a", "b"),
        ("<think>a\nb</think> <answer>\nb\n</answer>", "a\nb", "b"),
        ("x<think>cut off", "cut off", "x<think>cut off"),
        ("<think>a<answer>b</answer></think>", "a", "b"),
        ("<answer>b</answer>", "", "b"),
        ("<answer>b", "", "<answer>b"),
        ("  b ", "", "b"),
        ("<answer>a</answer><answer>b</answer>", "", "a"),
        ("", "", ""),
    ],
)
def test_a_completion_has_a_thought_and_an_answer(completion: str, thought: str, answer: str) -> None:
    assert (think_part(completion), answered(completion)) == (thought, answer)


def test_sentences_and_words_are_english_or_chinese() -> None:
    assert sentences_of("He smiles. Why?! 她哭了。真的； ...") == ["He smiles", "Why", "她哭了", "真的"]
    assert words_of("I’m SURE it's 3 o'clock, 他说'no'") == [
        "i'm",
        "sure",
        "it's",
        "3",
        "o'clock",
        "他",
        "说",
        "no",
    ]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("\n <think>a < b</think> \n <answer> b </answer> \n", 1.0),
        ("<think>1 <3 and a<b</think><answer>b</answer>", 1.0),
        ("", 0.0),
        ("happy", 0.0),
        ("<think></think><answer>b</answer>", 0.0),
        ("<think> \n </think><answer>b</answer>", 0.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("<answer>b</answer>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("x<think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think>x<answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>x", 0.0),
        ("<think><think>a</think></think><answer>b</answer>", 0.0),
        ("<think>a</think><think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a<answer>c</answer></think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer></answer>", 0.0),
        ("<think>a<b>c</b></think><answer>b</answer>", 0.0),
        ("<think>a</think><answer><i>b</i></answer>", 0.0),
        ("<Think>a</Think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>", 0.0),
        ("<think></answer>", 0.0),
    ],
)
def test_the_strict_form_has_no_holes(completion: str, value: float) -> None:
    assert FormatReward()(make_request(completion)) == value


# -- length, repetition, language ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "value"), [(0, -1.0), (5, -0.5), (10, 0.0), (20, 0.0), (21, -0.25), (23, -0.75), (24, -1.0), (99, -1.0)]
)
def test_length_is_penalised_on_a_line_outside_its_bounds(num: int, value: float) -> None:
    reward = LengthPenalty(low=10, high=20, width=4)
    assert value_of(reward(make_request("x" * bool(num), token_ids=(7,) * num))) == value
    in_characters = LengthPenalty(low=10, high=20, width=4, unit="characters")
    assert value_of(in_characters(make_request("x" * num))) == value


def test_the_length_of_a_text_without_tokens_is_not_known() -> None:
    assert value_of(LengthPenalty()(make_request("some text"))) is None
    assert value_of(LengthPenalty()(make_request(""))) == 0.0


@pytest.mark.parametrize(
    ("completion", "n", "value"),
    [
        ("a b c d", 2, 0.0),
        # ab bc ca ab bc: 3 of 5 are distinct
        ("a b c a b c", 2, 3 / 5 - 1),
        ("a a a a", 1, 1 / 4 - 1),
        ("<think>no No</think><answer>NO</answer>", 1, 1 / 3 - 1),
        ("高兴高兴", 2, 2 / 3 - 1),
        ("a b", 3, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_is_the_share_of_n_grams_said_before(completion: str, n: int, value: float) -> None:
    assert RepetitionPenalty(n=n)(make_request(completion)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("completion", "options", "value"),
    [
        ("<think>hello</think>", {}, 1.0),
        ("<think>他笑</think><answer>happy</answer>", {"language": "zh"}, 2 / 7),
        ("<think>他笑</think><answer>happy</answer>", {"language": "zh", "part": "think"}, 1.0),
        ("<think>他笑 ab</think>", {}, 0.5),
        ("café naïve", {}, 1.0),
        ("привет hi", {}, 0.25),
        ("123 !?", {}, 0.0),
        ("", {"language": "zh"}, 0.0),
    ],
)
def test_language_is_the_share_of_letters_of_the_script(
    completion: str, options: dict[str, Any], value: float
) -> None:
    assert LanguageReward(**options)(make_request(completion)) == pytest.approx(value)


# -- quotes -----------------------------------------------------------------------------------------


def slow_edits(quote: list[str], said: list[str]) -> int:
    """The edit table, whose first row is free and whose last row is searched."""
    above = [0] * (len(said) + 1)
    for i, word in enumerate(quote, 1):
        row = [i]
        for j, other in enumerate(said, 1):
            row.append(min(above[j - 1] + (word != other), above[j] + 1, row[j - 1] + 1))
        above = row
    return min(above)


def test_edits_are_those_of_the_edit_table() -> None:
    draw = random.Random(3)
    for _ in range(2000):
        quote = draw.choices("abcd", k=draw.randint(1, 70))
        said = draw.choices("abcde", k=draw.randint(0, 20))
        assert edits_to_best_stretches([quote], said) == slow_edits(quote, said)


WORDS = st.sampled_from("abcd")


@given(st.lists(st.lists(WORDS, min_size=1, max_size=12), max_size=8), st.lists(WORDS | st.just("e"), max_size=40))
def test_the_edits_of_several_quotes_are_those_of_each(quotes: list[list[str]], said: list[str]) -> None:
    assert edits_to_best_stretches(quotes, said) == sum(slow_edits(quote, said) for quote in quotes)


@given(st.lists(st.text("ab 我\u2019'.", min_size=3), max_size=5), st.text("abc 我很'."), st.integers(1, 3))
def test_the_value_is_1_less_the_word_errors_of_the_quotes(texts: list[str], said: str, min_words: int) -> None:
    thought = " and ".join(f"“{text}”" for text in texts)
    quotes = [words for text in texts if len(words := words_of(text)) >= min_words]
    num_edits = sum(slow_edits(quote, words_of(said)) for quote in quotes)
    value = 1.0 - num_edits / sum(map(len, quotes)) if quotes else 0.5
    request = make_request(f"<think>{thought}</think>", transcript=said)
    assert value_of(TranscriptReward(min_words=min_words)(request)) == pytest.approx(value)


class CountedWords(list[str]):
    """Counts the words that are read of it."""

    num_read = 0

    def __iter__(self) -> Iterator[str]:
        for word in super().__iter__():
            CountedWords.num_read += 1
            yield word


def test_the_transcript_is_read_once_however_many_quotes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "I am so tired of this " * 100
    monkeypatch.setattr(transcript, "words_of", lambda text: CountedWords(words_of(text)))
    reads: list[int] = []
    for num_quotes in (1, 10, 1000):
        CountedWords.num_read = 0
        thought = '"so very" ' * num_quotes
        assert value_of(TranscriptReward()(make_request(f"<think>{thought}", transcript=said))) == 0.5
        reads.append(CountedWords.num_read - 2 * num_quotes)
    assert max(reads) <= 2 * 600


def test_more_words_than_are_compared_are_worth_nothing_and_it_is_said() -> None:
    def asked(num_words: int) -> RewardResult:
        quote = '"so tired" ' * (num_words // 2)
        return TranscriptReward()(make_request(f"<think>{quote}", transcript="I am so tired"))

    assert asked(MAX_QUOTED).value == 1.0
    over = asked(MAX_QUOTED + 2)
    assert (over.value, over.detail) == (0.0, "more than 4096 words are quoted")
    assert over.facts == {"quoted_words": MAX_QUOTED + 2}


@pytest.mark.parametrize(
    ("thought", "value"),
    [
        ('He says "I am so tired".', 1.0),
        ("He says “so TIRED, of”.", 1.0),
        # one word of four is wrong
        ('"am so very of"', 0.75),
        ('"I am so sad"', 0.75),
        ('"completely other words here"', 0.0),
        # of six words quoted, one is wrong
        ('"I am so tired" and "not this"', 5 / 6),
        # one word is emphasis
        ('He is "angry"', 0.5),
        ("nothing quoted", 0.5),
        ('a mark that " stays open', 0.5),
        ("", 0.5),
    ],
)
def test_quotes_are_compared_with_the_best_stretch_of_the_transcript(thought: str, value: float) -> None:
    request = make_request(f"<think>{thought}</think>", transcript="Well... I am so tired of this!")
    assert value_of(TranscriptReward()(request)) == pytest.approx(value)


def test_quotes_may_be_chinese() -> None:
    request = make_request("<think>他说「我好累啊」</think>", transcript="唉，我很累啊。")
    assert value_of(TranscriptReward()(request)) == 0.75


def test_speech_is_not_compared_without_a_transcript_and_is_invented_where_nothing_is_said() -> None:
    quoting, silent = '<think>"I am here"</think>', "<think>He smiles.</think>"
    reward = TranscriptReward(without_quotes=1.0)
    assert value_of(reward(make_request(quoting))) is None
    assert value_of(reward(make_request(silent))) is None
    assert value_of(reward(make_request(quoting, transcript=""))) == 0.0
    assert value_of(reward(make_request(silent, transcript=""))) == 1.0


def test_only_what_is_thought_is_compared() -> None:
    request = make_request('<think>x</think><answer>"so tired"</answer>', transcript="so tired")
    assert value_of(TranscriptReward()(request)) == 0.5


# -- cues -------------------------------------------------------------------------------------------

BOTH: tuple[Modality, ...] = ("video", "audio")


@pytest.mark.parametrize(
    ("thought", "modalities", "value"),
    [
        # mouth, brows; voice, loudness
        ("His lips tremble and his brows furrow; his voice is loud.", BOTH, 1.0),
        ("His lips tremble.", BOTH, 0.25),
        # one cue, however often and in whatever words
        ("Eyes wide, he stares, gaze fixed.", ("video",), 0.5),
        ("No smile, tearful.", ("video",), 1.0),
        ("他皱眉，眼含泪。声音很大声。", BOTH, 1.0),
        # a phone and a camera are no hands and no head
        ("镜头里有手机。", ("video",), 0.0),
        ("nothing of the kind", BOTH, 0.0),
        # what was not given is penalised by its share
        ("His lips and brows move. The tone is loud.", ("video",), 0.0),
        ("His lips and brows move. The tone is flat.", ("video",), 0.5),
        ("His lips and brows move. No voice is heard, and there isn't any music.", ("video",), 1.0),
        ("His lips and brows move, but not slowly: the tone is loud.", ("video",), 0.0),
        ("嘴和眉。没有声音，没有音乐。", ("video",), 1.0),
        ("嘴和眉。声音大声。", ("video",), 0.0),
        # laughter can be seen and heard: it is evidence of either and claims none
        ("He laughs, lips apart.", ("video",), 1.0),
        ("Laughing, in a high voice.", ("audio",), 1.0),
        ("His face shows it, he smiles.", ("audio",), -1.0),
    ],
)
def test_evidence_is_named_for_what_was_given(thought: str, modalities: tuple[Modality, ...], value: float) -> None:
    request = make_request(f"<think>{thought}</think><answer>happy</answer>", modalities=modalities)
    assert value_of(EvidenceReward()(request)) == pytest.approx(value)


@pytest.mark.parametrize("own", [VISIBLE, AUDIBLE])
def test_a_word_names_one_cue(own: dict[str, str]) -> None:
    words = [word for cue in {**own, **SEEN_AND_HEARD}.values() for word in cue.split()]
    assert sorted(words) == sorted({*words})
    assert all(word == word.lower() for word in words)


def test_evidence_has_options() -> None:
    completion = "<think>Lips, brows, cheeks. A loud voice.</think>"
    request = make_request(completion, modalities=("video",))
    assert value_of(EvidenceReward(needed=4)(request)) == pytest.approx(3 / 4 - 2 / 4)
    assert value_of(EvidenceReward(needed=4, absent_penalty=0.5)(request)) == pytest.approx(3 / 4 - 1 / 4)
    assert value_of(EvidenceReward(absent_penalty=0)(request)) == 1.0
    assert value_of(EvidenceReward()(make_request(completion, modalities=()))) is None
    assert value_of(EvidenceReward()(make_request("<answer>lips brows voice loud</answer>"))) == 0.0


# -- class weights ----------------------------------------------------------------------------------


def mean_weight(weights: dict[str, float], counts: dict[str, float]) -> float:
    """Over the training distribution."""
    return sum(weights[name] * counts[name] for name in counts) / sum(counts.values())


def test_classes_weigh_alike_in_sum_and_their_mean_is_one() -> None:
    counts = {"happy": 60.0, "sad": 30.0, "disgust": 10.0}
    weights = class_weights(counts, power=1.0, cap=100.0)
    # 1 / (3 f)
    assert weights == pytest.approx({"happy": 1 / 1.8, "sad": 1 / 0.9, "disgust": 1 / 0.3})
    assert mean_weight(weights, counts) == pytest.approx(1.0)
    assert class_weights(counts, power=0.0, cap=100.0) == pytest.approx(dict.fromkeys(counts, 1.0))


def test_a_cap_keeps_the_mean() -> None:
    counts = {"happy": 60.0, "sad": 30.0, "disgust": 10.0}
    weights = class_weights(counts, power=1.0, cap=2.0)
    # disgust is capped at 2; s solves 0.1 * 2 + 2 s = 1
    assert weights == pytest.approx({"happy": 0.4 / 0.6, "sad": 0.4 / 0.3, "disgust": 2.0})
    assert class_weights(counts, power=1.0, cap=1.0) == pytest.approx(dict.fromkeys(counts, 1.0))
    for cap in (1.0, 1.1, 1.5, 3.0, 10.0):
        for power in (0.0, 0.5, 1.0, 2.0):
            weights = class_weights(counts, power=power, cap=cap)
            assert mean_weight(weights, counts) == pytest.approx(1.0)
            assert max(weights.values()) <= cap + 1e-12


# -- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (LengthPenalty, {"low": -1}, "length.low must be greater than or equal to 0, got -1; "),
        (LengthPenalty, {"low": 9, "high": 8}, "length.high must be >= length.low, 9, got 8; "),
        (LengthPenalty, {"width": 0}, "length.width must be greater than or equal to 1, got 0; "),
        (LengthPenalty, {"unit": "words"}, "length.unit must be 'tokens' or 'characters', got 'words'; "),
        (RepetitionPenalty, {"n": True}, "repetition.n must be a valid integer, got True; "),
        (LanguageReward, {"language": "fr"}, "language.language must be 'en' or 'zh', got 'fr'; "),
        (LanguageReward, {"part": ["think"]}, "language.part must be 'completion' or 'think', got ['think']; "),
        (TranscriptReward, {"without_quotes": 2}, "without_quotes must be less than or equal to 1, got 2; "),
        (TranscriptReward, {"min_words": 1.5}, "min_words must be a valid integer, got 1.5; "),
        (EvidenceReward, {"absent_penalty": float("nan")}, "absent_penalty must be a finite number, got nan; "),
        (FormatReward, {"strict": True}, "format.strict must be an option of the reward, got True; "),
        (EvidenceReward, {"needed": "2"}, "needed must be a valid integer, got '2'; "),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**options)
    assert said in str(caught.value)
