"""What the label table reads in words, sentences and answers."""

from typing import get_args

import pytest

from common.config.data import DataConfig
from common.labels import TAXONOMIES, classes_in, mentions, normalised


@pytest.mark.parametrize("taxonomy", [name for name, classes in TAXONOMIES.items() if classes])
def test_a_class_names_itself(taxonomy: str) -> None:
    for name in TAXONOMIES[taxonomy] or ():
        assert normalised(name, taxonomy) == name
        assert normalised(f" {name.upper()}.\n", taxonomy) == name


def test_the_configuration_takes_every_taxonomy() -> None:
    assert set(get_args(DataConfig.model_fields["taxonomy"].annotation)) == set(TAXONOMIES)


def test_mentions_are_where_the_text_has_them() -> None:
    text = "ﬁlm: ＡＮＧＲＹ，not an\u200bxious; 他很生气"
    assert [text[m.start : m.end] for m in mentions(text)] == [m.surface for m in mentions(text)]
    assert [(m.surface, m.emotion, m.is_negated) for m in mentions(text)] == [
        ("ＡＮＧＲＹ", "angry", False),
        ("an\u200bxious", "anxious", True),
        ("生气", "angry", False),
    ]


def test_classes_come_by_first_mention_once() -> None:
    assert classes_in("Sad, then furious and sad, no fear", "dfew") == ("sad", "angry")
