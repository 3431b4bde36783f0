"""The paper's two rewards as published, and the rubric that sums them."""

import math
import sys
from pathlib import Path

import pytest

from common.config.reward import AccuracyRewardConfig, FormatRewardConfig, PythonRewardConfig, RewardConfig
from common.errors import ConfigError
from common.types import Failure, Score
from reward.accuracy import accuracy_reward
from reward.format import format_reward
from reward.rubric import RewardFn, Rubric, build_rubric, load_function
from tests.support.builders import make_completion, make_record


@pytest.mark.parametrize(
    ("completion", "label", "reward"),
    [
        ("<think>x</think><answer>happy</answer>", "happy", 1.0),
        ("<answer>  happy\t</answer>", "happy", 1.0),
        ("<answer>happy</answer> and more", "happy", 1.0),
        # case counts, and no synonym does
        ("<answer>Happy</answer>", "happy", 0.0),
        ("<answer>happiness</answer>", "happy", 0.0),
        ("<answer>very happy</answer>", "happy", 0.0),
        # the first answer
        ("<answer>happy</answer><answer>sad</answer>", "happy", 1.0),
        ("<answer>sad</answer><answer>happy</answer>", "happy", 0.0),
        # without DOTALL an answer that breaks its line is none: then the whole text counts
        ("<answer>\nhappy\n</answer>", "happy", 0.0),
        ("<answer>sad\n</answer><answer>happy</answer>", "happy", 1.0),
        # no tag: the whole text
        (" happy\n", "happy", 1.0),
        ("I am happy", "happy", 0.0),
        ("happy</answer>", "happy", 0.0),
        ("", "happy", 0.0),
        # the label is read in the same way
        ("<answer>happy</answer>", "<answer> happy </answer>", 1.0),
        ("happy", "  happy ", 1.0),
        ("<answer></answer>", "", 1.0),
    ],
)
def test_accuracy_is_the_published_match(completion: str, label: str, reward: float) -> None:
    assert accuracy_reward(completion, label) == reward


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>a</think> \n\t <answer>b</answer>", 1.0),
        ("<think>a\nb</think>\n<answer>\nc\n</answer>", 1.0),
        ("<think></think><answer></answer>", 1.0),
        # lenient where the expression is
        ("<think>a</think><answer>b</answer><answer>c</answer>", 1.0),
        ("<think>a</think> text </think><answer>b</answer>", 1.0),
        # nothing before, between or behind
        (" <think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think>x<answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>.", 0.0),
        ("<think>a</think><answer>b</answer>\n", 0.0),
        # both blocks, in their order, spelled like this
        ("<answer>b</answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<Think>a</Think><answer>b</answer>", 0.0),
        ("<think>a<answer>b</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_format_is_the_published_expression(completion: str, reward: float) -> None:
    assert format_reward(completion, "anything") == reward


def score(rewards: dict[str, tuple[RewardFn, float]], *texts: str) -> list[Score] | Failure:
    """Of completions with these texts; the label is `happy`."""
    return Rubric(rewards).score(make_record(label="happy"), [make_completion([1], text=t) for t in texts])


def test_a_rubric_sums_weighted_rewards_and_keeps_them_apart() -> None:
    rubric = build_rubric(
        RewardConfig(
            rewards=(
                AccuracyRewardConfig(type="accuracy", weight=2.0),
                FormatRewardConfig(type="format", weight=0.5),
            )
        )
    )
    texts = ["<think>x</think><answer>happy</answer>", "<think>x</think><answer>sad</answer>", "happy", "sad"]
    got = rubric.score(make_record(label="happy"), [make_completion([1], text=t) for t in texts])
    assert isinstance(got, list)
    assert [s.total for s in got] == [2.5, 0.5, 2.0, 0.0]
    assert [dict(s.breakdown) for s in got] == [
        {"accuracy": 1.0, "format": 1.0},
        {"accuracy": 0.0, "format": 1.0},
        {"accuracy": 1.0, "format": 0.0},
        {"accuracy": 0.0, "format": 0.0},
    ]


def test_the_default_rubric_is_the_papers() -> None:
    got = build_rubric(RewardConfig()).score(
        make_record(label="sad"), [make_completion([1], text="<think></think><answer>sad</answer>")]
    )
    assert isinstance(got, list)
    assert got[0].total == 2.0


def failing(text: str, _label: str) -> float:
    """Fails on one text."""
    if text == "bad":
        raise KeyError("no such\nemotion")
    return 1.0


def test_one_reward_that_fails_on_one_completion_fails_the_group() -> None:
    got = score({"accuracy": (accuracy_reward, 1.0), "mine": (failing, 1.0)}, "happy", "bad", "happy")
    assert isinstance(got, Failure)
    assert (got.stage, got.reason) == ("reward", "mine-error")
    assert "KeyError" in got.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_fails_the_group(value: float) -> None:
    got = score({"mine": (lambda text, _: value if text == "bad" else 0.0, 1.0)}, "good", "bad")
    assert isinstance(got, Failure)
    assert got.reason == "mine-not-finite"


def test_a_reward_that_is_no_number_fails_the_group() -> None:
    got = score({"mine": (lambda *_: "much", 1.0)}, "good")  # pyright: ignore[reportArgumentType]
    assert isinstance(got, Failure)
    assert got.reason == "mine-error"


def test_a_sum_that_is_not_finite_fails_the_group() -> None:
    got = score({"mine": (lambda *_: 1e308, 10.0)}, "good")
    assert isinstance(got, Failure)


def test_rewards_may_be_any_real_number() -> None:
    got = score({"up": (lambda *_: 3, 0.5), "down": (lambda *_: -1.25, 2.0)}, "x")
    assert isinstance(got, list)
    assert got[0].total == 0.5 * 3 - 2.0 * 1.25


# -- rewards of the user's -------------------------------------------------------------------------


def complaint(folder: Path, text: str, name: str = "mine", *, module: str = "my_rewards_of_a_test") -> str:
    """The one line about a module of this text."""
    (folder / "my_rewards_of_a_test.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_function(f"{module}:{name}")
    said = str(caught.value)
    assert "\n" not in said
    assert f"'{module}:{name}'" in said
    assert "; " in said
    return said


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules are imported from, once each."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "my_rewards_of_a_test", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("x = 1\ndef mine(:\n", "SyntaxError: invalid syntax", 2),
        ("def value():\n    return nothing\n\nx = value()\n", "NameError: name 'nothing' is not defined", 2),
        ("\nimport no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'", 2),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines", 1),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", 2),
        ("import json\nx = json.loads('{')\n", "JSONDecodeError", 2),
    ],
)
def test_a_module_that_fails_is_named_with_its_line(folder: Path, text: str, error: str, line: int) -> None:
    said = complaint(folder, text)
    assert error in said
    assert f"at {folder}/my_rewards_of_a_test.py:{line}; mend the module" in said


def test_a_module_that_is_not_there_is_told_where_to_lie(folder: Path) -> None:
    said = complaint(folder, "", module="no_such_module.inner")
    assert said.endswith("the module must lie in the directory that the run was started from, or be installed")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("mine = 3\n", "of type int"),
        ("other = 3\n", "nothing of this name"),
        ("def mine(completion): ...\n", "unexpected keyword argument 'label'"),
        ("def mine(text, label): ...\n", "missing a required argument: 'text'"),
        ("def mine(completion, label, weight): ...\n", "missing a required argument: 'weight'"),
        ("def mine(completion, label, /): ...\n", "positional only"),
        ("async def mine(completion, label): ...\n", "it is async"),
    ],
)
def test_what_cannot_be_called_as_a_reward_is_refused(folder: Path, text: str, part: str) -> None:
    said = complaint(folder, text)
    assert part in said
    assert "`def mine(completion, label)`" in said


@pytest.mark.parametrize(
    "text",
    [
        "def mine(completion, label): return 0.5\n",
        "def mine(label, completion, weight=1.0): return 0.5\n",
        "def mine(**texts): return 0.5\n",
        "mine = lambda *, completion, label: 0.5\n",
    ],
)
def test_what_can_be_called_by_name_is_a_reward(folder: Path, text: str) -> None:
    (folder / "my_rewards_of_a_test.py").write_text(text)
    reward = PythonRewardConfig(type="python", name="mine", entrypoint="my_rewards_of_a_test:mine", weight=2.0)
    got = build_rubric(RewardConfig(rewards=(reward,))).score(make_record(), [make_completion([1], text="x")])
    assert isinstance(got, list)
    assert (got[0].total, dict(got[0].breakdown)) == (1.0, {"mine": 0.5})
