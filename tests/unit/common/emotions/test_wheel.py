"""Plutchik's wheel: its geometry, where words lie on it, and wheels of a user's."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from common.emotions.wheel import PACKAGED, Wheel
from common.emotions.words import ENGLISH
from common.errors import ConfigError
from common.labels import TAXONOMIES

CIRCLE = ("joy", "trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation")
TABLE: dict[str, Any] = json.loads(PACKAGED.read_text())


def written(folder: Path, **changes: Any) -> Path:
    """A wheel of a user's."""
    file = folder / "wheel.json"
    file.write_text(json.dumps({**TABLE, **changes}))
    return file


def test_the_circle_is_plutchiks() -> None:
    assert tuple(TABLE["primaries"]) == CIRCLE
    assert all(len(intensities) == 3 for intensities in TABLE["primaries"].values())
    pairs = [frozenset(dyad["of"]) for dyad in TABLE["dyads"].values()]
    # every two that are not opposites, each once
    opposites = {frozenset((CIRCLE[i], CIRCLE[i + 4])) for i in range(4)}
    every = {frozenset((one, other)) for one in CIRCLE for other in CIRCLE if one != other}
    assert len(pairs) == len(set(pairs)) == 24
    assert set(pairs) == every - opposites


@pytest.mark.parametrize(
    ("word", "level1", "level2", "primaries"),
    [
        ("furious", "anger", "rage", ("anger",)),
        ("Annoyed!", "anger", "annoyance", ("anger",)),
        ("angrily", "anger", "anger", ("anger",)),
        ("contempt", "disgust", "contempt", ("disgust", "anger")),
        ("scornful", "disgust", "contempt", ("disgust", "anger")),
        ("anxious", "fear", "anxiety", ("fear", "anticipation")),
        ("惊讶", "surprise", "surprise", ("surprise",)),
        ("neutral", "neutral", "neutral", ()),
        ("expressionless", "neutral", "neutral", ()),
    ],
)
def test_words_lie_where_they_should(word: str, level1: str, level2: str, primaries: tuple[str, ...]) -> None:
    wheel = Wheel.load()
    place = wheel.place(word)
    assert place is not None
    assert (wheel.level1(word), wheel.level2(word), place.primaries) == (level1, level2, primaries)


def test_an_unknown_word_lies_nowhere() -> None:
    wheel = Wheel.load()
    assert (wheel.level1("table"), wheel.level2("table"), wheel.level1("")) == (None, None, None)


def test_every_emotion_of_the_label_table_and_every_class_has_a_place() -> None:
    wheel = Wheel.load()
    assert [emotion for emotion in ENGLISH if wheel.level1(emotion) is None] == []
    singles = {name for classes in TAXONOMIES.values() for name in classes or () if "_" not in name}
    assert {wheel.level1(name) for name in singles} == {"neutral", *CIRCLE} - {"trust", "anticipation"}


def test_a_wheel_may_be_replaced(tmp_path: Path) -> None:
    primaries = {"good": {"mild": ["happy"]}, "bad": {"mild bad": ["sad", "anger"]}}
    wheel = Wheel.load(written(tmp_path, source="mine", primaries=primaries, dyads={}, centre=[]))
    assert (wheel.level1("joyful"), wheel.level2("anger")) == ("good", "mild bad")
    # neither listed nor through its emotion
    assert wheel.level1("neutral") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"centre": ["angry"]},
            "a word must have one place in an emotion wheel, got 'angry' at 'anger' and 'angry'",
        ),
        ({"dyads": {"love": {"of": ["joy", "thrust"], "words": []}}}, "got 'thrust' in 'love' of"),
        ({"colours": {}}, "must have the form of wheel.json, got 'colours' of"),
        ({"centre": None}, "must have the form of wheel.json, got 'centre' of"),
    ],
)
def test_a_faulty_wheel_is_refused_with_its_fault(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Wheel.load(written(tmp_path, **changes))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be a readable JSON file, got .*nowhere"):
        Wheel.load(tmp_path / "nowhere.json")
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    with pytest.raises(ConfigError, match=r"got 'the file' of .*torn"):
        Wheel.load(torn)


def test_the_wheel_travels_with_the_package() -> None:
    root = Path(__file__).parents[4]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["common"]
    assert PACKAGED in {file for pattern in patterns for file in (root / "common").glob(pattern)}
