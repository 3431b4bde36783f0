"""The reward over an emotion wheel."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, DatasetError
from reward.builtin.wheel import WheelReward
from tests.support.reward.requests import make_request


@pytest.mark.parametrize(
    ("said", "labels", "level", "value"),
    [
        ("furious", ("annoyed",), 1, 1.0),
        ("furious", ("annoyed",), 2, 0.0),
        ("furious", ("enraged",), 2, 1.0),
        ("happy", ("sad",), 1, 0.0),
        # {joy, surprise} against {joy, sadness}
        ("delighted, astonished", ("happy", "sorrow"), 1, 0.5),
        ("happy, joyful and glad", ("happy",), 1, 1.0),
        ("He looks happy.", ("happy",), 1, 1.0),
        ("not sad, angry or afraid, but happy", ("happy",), 1, 1.0),
        ("高兴，惊讶", ("happy", "surprise"), 1, 1.0),
        # a word of the wheel alone
        ("trusting", ("trust",), 1, 1.0),
        # what lies nowhere is a place of its own, and costs where it is only said
        ("Sonder", ("sonder",), 1, 1.0),
        ("happy, blorp, zonk", ("happy",), 1, 0.5),
        ("not happy", ("happy",), 1, 0.0),
        ("", ("happy",), 1, 0.0),
        ("neutral", ("expressionless",), 1, 1.0),
    ],
)
def test_words_are_alike_where_they_lie_at_one_place(
    said: str, labels: tuple[str, ...], level: Any, value: float
) -> None:
    request = make_request(f"<think>sad</think><answer>{said}</answer>", labels=labels, taxonomy="open")
    assert WheelReward(level=level)(request) == pytest.approx(value)


def test_another_wheel_may_be_turned(tmp_path: Path) -> None:
    file = tmp_path / "wheel.json"
    primaries = {"good": {"mild": ["happy", "calm"]}, "bad": {"harsh": ["sad", "anger"]}}
    file.write_text(json.dumps({"source": "mine", "primaries": primaries, "dyads": {}, "centre": []}))
    request = make_request("<answer>calm</answer>", label="happy")
    assert WheelReward()(make_request("<answer>ecstatic</answer>", label="happy")) == 1.0
    assert WheelReward(wheel=str(file))(request) == 1.0
    with pytest.raises(ConfigError, match="emotion wheel must be a readable JSON file"):
        WheelReward(wheel=str(tmp_path / "none.json"))


@pytest.mark.parametrize("level", [0, 3, True, "1"])
def test_a_level_that_a_wheel_does_not_have_is_refused(level: Any) -> None:
    with pytest.raises(ConfigError, match=r"wheel_f1\.level must be "):
        WheelReward(level=level)


@pytest.mark.parametrize("label", ["", " , ", "not happy"])
def test_a_label_that_says_nothing_is_an_error(label: str) -> None:
    with pytest.raises(DatasetError, match="record clip-0: label must name an emotion, got"):
        WheelReward()(make_request("<answer>happy</answer>", label=label))
