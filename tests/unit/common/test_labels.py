"""What the label table reads in words, sentences and answers."""

import json
from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.data import DataConfig
from common.emotions.chinese import CHINESE
from common.emotions.mentions import lexicon
from common.emotions.words import ENGLISH
from common.errors import ConfigError
from common.labels import (
    DFEW_ORDER,
    MAFW,
    MAFW_COMPOUND,
    MAFW_ORDER,
    MAX_REMEMBERED,
    R1_OMNI,
    RAVDESS,
    RAVDESS7,
    RAVDESS_ORDER,
    TAXONOMIES,
    Mention,
    classes_in,
    lemma,
    main,
    mentions,
    normalised,
)

CLOSED = {name: classes for name, classes in TAXONOMIES.items() if classes is not None}
READ = [
    # eight words between are few enough, nine too many
    ("not a b c d e f g h sad", "-sad"),
    ("not a b c d e f g h i sad", "+sad"),
    ("not sad or a b c d angry", "-sad -angry"),
    ("not sad or a b c d e angry", "-sad +angry"),
    ("no anger, real sadness or fear", "-angry -sad -fear"),
    ("not angry, a bit sad or afraid", "-angry +sad +fear"),
    ("没有一二三四五六七八九十愤怒", "-angry"),
    ("没有一二三四五六七八九十零愤怒", "+angry"),
    ("不那么样的生气", "-angry"),
    ("不一二三四五生气", "+angry"),
    ("没有愤怒和一二三四悲伤", "-angry -sad"),
    ("没有愤怒和一二三四五悲伤", "-angry +sad"),
    ("no tears no anger", "-angry"),
    ("She did not laugh nor look sad", "-sad"),
    ("Without a smile she looks sad", "+sad"),
    ("The lack of a smile is a sign of sadness", "+sad"),
    ("There is no sign that she is sad", "-sad"),
    ("He is trying not to show his fear", "+fear"),
    ("The tears are not of sadness but of happiness", "-sad +happy"),
    ("He isn't as angry as he is sad", "-angry +sad"),
    ("It is not that he is sad, it is that he is angry", "-sad +angry"),
    ("她不敢相信自己的眼睛，非常惊讶", "+surprise"),
    ("他没有说话只是愤怒地看着对方", "+angry"),
    ("不是害怕，是驚訝", "-fear +surprise"),
    ("not happy", "-happy"),
    ("no anger", "-angry"),
    ("never sad", "-sad"),
    ("isn't afraid", "-fear"),
    ("without fear", "-fear"),
    ("not sad but angry", "-sad +angry"),
    ("neither happy nor sad", "-happy -sad"),
    ("unhappy", "+sad"),
    ("I know she is sad, notice", "+sad"),
    ("他不高兴", "-happy"),
    ("没有愤怒，只有悲伤", "-angry +sad"),
    ("没有愤怒和悲伤", "-angry -sad"),
    ("并没有表现出明显的愤怒", "-angry"),
    ("非常愤怒", "+angry"),
    ("他不是生气，而是难过", "-angry +sad"),
    ("not only sad but also angry", "+sad +angry"),
    ("not without fear", "+fear"),
    ("never not sad", "+sad"),
    ("cannot hide her anger", "+angry"),
    ("no anger, sadness or fear", "-angry -sad -fear"),
    ("not angry, sad", "-angry +sad"),
    ("not happy and seems sad", "-happy +sad"),
    ("anger is not present", "-angry"),
    ('{"anger": 0.0, "sad": 1}', "-angry +sad"),
    ("couldn't be happier", "+happy"),
    ("sad rather than angry", "+sad -angry"),
    ("no one is angry", "-angry"),
    ("with no smile on his angry face", "+angry"),
    ("not an angry expression or a sad voice", "-angry -sad"),
    ("no doubt angry", "+angry"),
    ("nothing but anger", "+angry"),
    ("shows no emotion other than anger", "+angry"),
    ("no emotion except anger", "+angry"),
    ("all emotions except anger", "-angry"),
    ("not because she is sad but because she is angry", "-sad +angry"),
    ("non-verbal cues show anger", "+angry"),
    ("non-angry", "-angry"),
    ("un-happy", "-happy"),
    ("no smile, joy or happiness", "-happy -happy"),
    ("She does not smile, her face sad or angry", "+sad +angry"),
    ("no laughter, joy, or happiness", "-happy -happy"),
    ("not happy, or sad", "-happy -sad"),
    ("It's not anger — it's fear.", "-angry +fear"),
    ("not anger - fear", "-angry +fear"),
    ("I can't believe how happy he is", "+happy"),
    ("he cannot contain her anger", "+angry"),
    ("The clip does not contain anger", "-angry"),
    ("don't know why she is sad", "+sad"),
    ("There is no indication of joy, sadness, or any other emotion except anger.", "-happy -sad +angry"),
    ("The person is not showing any signs of happiness or surprise, but rather anger.", "-happy -surprise +angry"),
    ("no anger no sadness", "-angry -sad"),
    ("He does not seem particularly happy, sad, or surprised; he is neutral", "-happy -sad -surprise +neutral"),
    ("Is she sad? No. Angry.", "+sad +angry"),
    ("No, she is angry", "+angry"),
    ("nobody is not sad", "+sad"),
    ("happy, not sad", "+happy -sad"),
    ("not so much sad as angry", "-sad +angry"),
    ("never been happier", "+happy"),
    ("is not a happy surprise", "-happy -surprise"),
    ("anger and fear are absent", "-angry -fear"),
    ("joy isn't present, but fear is", "-happy +fear"),
    ("Anger: no, Sadness: yes", "-angry +sad"),
    ("sad-free", "-sad"),
    ("without a doubt furious", "+angry"),
    ("他没有说话很生气", "+angry"),
    ("没有表现出任何愤怒的迹象", "-angry"),
    ("没有显得很愤怒", "-angry"),
    ("不太会显得很生气", "-angry"),
    ("没有不满", "-dissatisfied"),
    ("没有不高兴", "+happy"),
    ("他不哭不闹不生气", "-angry"),
    ("与其说是悲伤，不如说是愤怒", "-sad +angry"),
    ("既不高兴也不悲伤", "-happy -sad"),
    ("毫不掩饰愤怒", "+angry"),
    ("忍不住生气", "+angry"),
    ("愤怒、悲伤都没有", "+angry +sad"),
    ("不但不高兴，反而很生气", "-happy +angry"),
    ("並不高興，反而憤怒", "-happy +angry"),
    ("沒有憤怒、悲傷或恐懼", "-angry -sad -fear"),
    ("他并没有生气", "-angry"),
    ("并非愤怒而是恐惧", "-angry +fear"),
    ("看起来不开心", "-happy"),
    ("无明显愤怒", "-angry"),
    ("非愤怒", "-angry"),
    ("非常悲伤", "+sad"),
    ("她很无奈，不知所措", "+helpless"),
    ("She is neither angry, sad, nor afraid.", "-angry -sad -fear"),
    ("She is not at all angry", "-angry"),
    ("isn’t angry", "-angry"),
    ("isn't just sad, she is furious", "+sad +angry"),
    ("hardly any fear", "-fear"),
    ("with a lack of fear", "-fear"),
    ("far from happy", "-happy"),
    ("anything but happy", "-happy"),
    ("rather sad", "+sad"),
    ("instead of joy, there is sorrow", "-happy +sad"),
    ("The man isn't happy and the woman is angry", "-happy +angry"),
    ("not afraid to show her anger", "-fear +angry"),
    ("fails to hide his anger", "+angry"),
    ("she is not unhappy", "-sad"),
    ("notice the angry knot in his nose; nothing sad now", "+angry -sad"),
    ("I do not think that the man in the video is angry", "-angry"),
    ("not sad/angry", "-sad -angry"),
    ("She doesn't look sad. Angry!", "-sad +angry"),
    ("not angry (sad)", "-angry +sad"),
    ("no longer calm", "-calm"),
    ("can't help feeling sad", "+sad"),
    ("not merely sad", "+sad"),
    ("not necessarily sad", "-sad"),
    ("fearless", ""),
    ("not happy<br>sad", "-happy +sad"),
    ("no fear whatsoever and great joy", "-fear +happy"),
    ("no fear and joy", "-fear -happy"),
    ("never angry or in any way sad", "-angry -sad"),
    ("He was no stranger to fear", "-fear"),
    ("not angry at the sad news", "-angry +sad"),
]
"""What a text asserts (+) and denies (-), in order."""


def said(text: str) -> str:
    """As in `READ`."""
    return " ".join(f"{'-' if each.is_negated else '+'}{each.emotion}" for each in mentions(text))


@pytest.mark.parametrize(("text", "expected"), READ)
def test_denials_are_read_by_words_and_clauses(text: str, expected: str) -> None:
    assert said(text) == expected


@pytest.mark.parametrize("taxonomy", CLOSED)
def test_a_class_names_itself(taxonomy: str) -> None:
    for name in CLOSED[taxonomy]:
        assert normalised(name, taxonomy) == name
        assert normalised(f" {name.upper()}.\n", taxonomy) == name


def test_the_configuration_takes_every_taxonomy() -> None:
    assert set(get_args(DataConfig.model_fields["taxonomy"].annotation)) == set(TAXONOMIES)


def test_ids_are_those_of_the_corpora() -> None:
    assert [DFEW_ORDER[i] for i in (0, 1, 2, 3, 4, 5, 6)] == [
        *("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    ]
    nouns = "anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness disappointment"
    assert tuple(normalised(noun, "mafw") for noun in nouns.split()) == MAFW_ORDER
    ravdess = "neutral calm happy sad angry fearful disgust surprised"
    assert tuple(normalised(word, "ravdess") for word in ravdess.split()) == RAVDESS_ORDER
    assert set(MAFW) == set(R1_OMNI)
    assert set(RAVDESS) - set(RAVDESS7) == {"calm"}


def test_a_compound_is_one_of_the_43_classes_in_any_order() -> None:
    assert len(MAFW_COMPOUND) == len(set(MAFW_COMPOUND)) == 11 + 32
    assert normalised("sadness_surprise", "mafw_compound") == "sad_surprise"
    assert normalised("Surprise and sadness", "mafw_compound") == "sad_surprise"
    assert normalised("Anger_Disgust_Contempt", "mafw_compound") == "angry_disgust_contemptuous"
    assert normalised("Fear_Sadness_Anxiety", "mafw_compound") == "fear_sad_anxious"
    assert normalised("sadness", "mafw_compound") == "sad"
    # no clip of the corpus is both
    assert normalised("happiness_sadness", "mafw_compound") is None
    assert classes_in("sadness_surprise", "mafw_compound") == ("sad", "surprise")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("calm", {"ravdess": "calm", "ravdess7": None, "dfew": "neutral", "mafw": "neutral", "open": "calm"}),
        ("worried", {"mer": "worried", "mafw": "anxious", "r1_omni": "anxious", "dfew": None, "open": "worried"}),
        ("anxiety", {"mer": "worried", "mafw": "anxious", "ravdess": None}),
        ("contempt", {"mafw": "contemptuous", "dfew": None, "mer": None}),
        ("fearful", {"ravdess": "fear", "mer": None}),
        ("excited", {"dfew": "happy", "open": "excited"}),
        ("frustrated", {"dfew": None, "mafw": None, "open": "frustrated"}),
        ("smug!", {"dfew": None, "open": "smug"}),
        ("I cannot tell", {"dfew": None, "open": None}),
        ("happy or sad", {"dfew": None, "open": None}),
        ("not happy", {"dfew": None, "open": None}),
        ("", {"dfew": None, "open": None}),
        ("The final emotion is: **Sadness**.", {"dfew": "sad", "open": "sad"}),
        ("angry, so angry, furious", {"dfew": "angry"}),
        ("平静", {"dfew": "neutral", "ravdess": "calm"}),
        ("担心", {"mer": "worried", "mafw": "anxious"}),
    ],
)
def test_what_a_word_names_depends_on_the_taxonomy(text: str, expected: dict[str, str | None]) -> None:
    assert {taxonomy: normalised(text, taxonomy) for taxonomy in expected} == expected


def test_a_long_text_is_read_like_a_short_one() -> None:
    text = "The man raises his voice. " * MAX_REMEMBERED + "He is furious."
    assert normalised(text, "dfew") == "angry"


def test_an_unknown_taxonomy_is_named_with_those_there_are() -> None:
    for read in (normalised, classes_in):
        with pytest.raises(ConfigError, match=r"must be one of dfew, mafw, .*open, got 'ekman'; "):
            read("sad", "ekman")


def test_mentions_are_where_the_text_has_them() -> None:
    text = "ﬁlm: ＡＮＧＲＹ，not an\u200bxious; 他很生气"
    assert mentions(text) == tuple(
        Mention(start=start, end=end, surface=text[start:end], emotion=emotion, is_negated=is_negated)
        for start, end, emotion, is_negated in [
            (5, 10, "angry", False),
            (15, 23, "anxious", True),
            (27, 29, "angry", False),
        ]
    )
    assert [m.surface for m in mentions(text)] == ["ＡＮＧＲＹ", "an\u200bxious", "生气"]


def test_classes_come_by_first_mention_once() -> None:
    assert classes_in("Sad, then furious and sad, no fear", "dfew") == ("sad", "angry")
    # denied once and asserted later
    assert classes_in("not sad at first; sad in the end", "dfew") == ("sad",)


def test_a_word_is_read_as_a_whole() -> None:
    # mad, sad, fear, rage, joy and cross hide in these
    assert mentions("She made a sadhu's fearless garage enjoyable; nomad, across, 有生机") == ()
    assert said("anger's joy-filled sad/fearful_face") == "+angry +happy +sad +fear"


def test_a_new_line_ends_a_clause_unless_it_is_wrapped() -> None:
    assert said("Not angry\nSad") == "-angry +sad"
    assert said("She does not seem\nangry") == "-angry"
    assert said("No sign of joy or\n\n- Sad") == "-happy +sad"


@pytest.mark.parametrize(
    ("word", "emotion"),
    [
        ("Furious!", "angry"),
        ("anger", "angry"),
        ("angered", "angry"),
        ("angrily", "angry"),
        ("terrified", "fear"),
        ("taken-aback", "surprise"),
        ("ill at ease", "anxious"),
        ("憤怒", "angry"),
        ("愤怒", "angry"),
        ("worried", "worried"),
        ("table", None),
        ("", None),
        ("not happy", None),
    ],
)
def test_a_lemma_is_of_one_word(word: str, emotion: str | None) -> None:
    assert lemma(word) == emotion


def test_each_word_stands_once_and_can_be_found() -> None:
    words = [word for table in (ENGLISH, CHINESE) for text in table.values() for word in text.split()]
    assert sorted(words) == sorted(set(words))
    assert set(CHINESE) <= set(ENGLISH)
    for word, emotion in lexicon().items():
        assert lemma(word) == emotion
        assert [(m.surface, m.emotion, m.is_negated) for m in mentions(word)] == [(word, emotion, False)]


def test_every_class_of_every_taxonomy_is_an_emotion_of_the_table() -> None:
    singles = {name for classes in CLOSED.values() for name in classes if "_" not in name}
    assert singles <= set(ENGLISH)
    assert {lemma(name) for name in singles} == singles


WORDS = (
    "not |no |never |n't | sad|happy|, | or | and |nor |but |. |\n|不|没有|愤怒|、|，|和|ＡＮＧＲＹ|\u200b|ﬁ|İ"
    "|only |without |other than |-| is not present|: no|é"
)
PIECES = st.sampled_from(WORDS.split("|"))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)))
def test_any_text_is_read_and_its_mentions_lie_in_it_in_order(text: str) -> None:
    found = mentions(text)
    end = 0
    for each in found:
        assert end <= each.start < each.end <= len(text)
        assert each.surface == text[each.start : each.end]
        assert lemma(each.surface) == each.emotion
        end = each.end
    assert found == mentions(text)
    for taxonomy in TAXONOMIES:
        one = normalised(text, taxonomy)
        assert one is None or taxonomy == "open" or one in CLOSED[taxonomy]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([text for text, _ in READ]), st.sampled_from([str.upper, str.title, str.swapcase]))
def test_case_changes_nothing(text: str, recased: Callable[[str], str]) -> None:
    assert said(recased(text)) == said(text)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(READ), st.sampled_from(READ))
def test_a_sentence_is_read_for_itself(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert said(f"{first[0]}. {second[0]}") == f"{first[1]} {second[1]}".strip()


def test_the_command_shows_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["not sad but furious"]) == 0
    shown = capsys.readouterr().out
    assert "furious" in shown
    assert "denied" in shown
    assert all(name in shown for name in TAXONOMIES)
    assert main(["not sad but furious", "--taxonomy", "dfew", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "text": "not sad but furious",
        "mentions": [
            {"start": 4, "end": 7, "surface": "sad", "emotion": "sad", "is_negated": True},
            {"start": 12, "end": 19, "surface": "furious", "emotion": "angry", "is_negated": False},
        ],
        "classes": {"dfew": {"normalised": "angry", "named": ["angry"]}},
    }


def test_the_command_refuses_a_taxonomy_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sad", "--taxonomy", "ekman"]) == 2
    said_of_it = capsys.readouterr()
    assert said_of_it.err.startswith("error: a taxonomy must be one of dfew, ")
    assert said_of_it.out == ""
