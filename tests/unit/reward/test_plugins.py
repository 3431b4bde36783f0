"""Rewards of the user's: found, told apart by their parameters, called in their style; answers that are none."""

import asyncio
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigError
from common.types import Record
from reward.outcome import RewardFault, checked, checked_all, fault_of
from reward.plugins.loading import check_plugin, load_plugin
from reward.plugins.plugin import Plugin, PluginSpec, Shape
from reward.request import RewardResult
from tests.support.builders import make_record, make_request

MODULE = "my_rewards_of_a_test"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules are imported from, once each."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return tmp_path


def spec_of(folder: Path, text: str, **settings: Any) -> PluginSpec:
    """Of `mine` in a module of this text."""
    (folder / f"{MODULE}.py").write_text(text)
    return PluginSpec(**{"name": "mine", "entrypoint": f"{MODULE}:mine", **settings})


def loaded(folder: Path, text: str, **settings: Any) -> Plugin:
    """`mine` of a module of this text, checked before as a run does."""
    spec = spec_of(folder, text, **settings)
    check_plugin(spec)
    return load_plugin(spec)


def complaint(folder: Path, text: str, load: Callable[[PluginSpec], object] = load_plugin, **settings: Any) -> str:
    """The one line about such a module."""
    spec = spec_of(folder, text, **settings)
    with pytest.raises(ConfigError) as caught:
        load(spec)
    said = str(caught.value)
    assert "\n" not in said
    assert repr(spec.entrypoint) in said
    assert "; " in said
    return said


@pytest.mark.parametrize("load", [load_plugin, check_plugin])
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
def test_a_module_that_fails_is_named_with_its_line(
    folder: Path, text: str, error: str, line: int, load: Callable[[PluginSpec], object]
) -> None:
    said = complaint(folder, text, load)
    assert error in said
    assert f"at {folder}/{MODULE}.py:{line}; correct the module" in said


def test_a_module_that_is_not_there_is_told_where_to_lie(folder: Path) -> None:
    said = complaint(folder, "", entrypoint="no_such_module.inner:mine")
    assert said.endswith("the module must lie in the directory that the run was started from, or be installed")


@pytest.mark.parametrize("load", [load_plugin, check_plugin])
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("mine = 3\n", "of type int"),
        ("other = 3\n", "nothing of this name"),
        ("class mine: ...\n", "a class without __call__ and score"),
        ("def mine(completion): ...\n", "with (completion)"),
        ("def mine(text, label): ...\n", "with (text, label)"),
        (
            "def mine(completion, label, weight): ...\n",
            "only parameters that omni style passes (completion, label), got weight; set options, or a default",
        ),
        ("def mine(completion, label, /): ...\n", "with (completion, label, /)"),
        (
            "def mine(completions, my_column): ...\n",
            "only parameters that trl style passes (prompts, completions, ",
        ),
        ("def mine(request, scale): ...\n", "that omni style passes (request), got scale; set options"),
        ("def mine(**texts): ...\n", "with (**texts)"),
        (
            "def mine(completion=0, label=0, completions=0): ...\n",
            "fits omni (completion, label) and trl (completions)",
        ),
        (
            "def mine(completions=0, solution_str=0, ground_truth=0): ...\n",
            "fits trl (completions) and verl (ground_truth, solution_str); set style",
        ),
    ],
)
def test_what_cannot_be_told_or_called_is_refused(
    folder: Path, text: str, part: str, load: Callable[[PluginSpec], object]
) -> None:
    assert part in complaint(folder, text, load)


@pytest.mark.parametrize(
    ("text", "style", "shape"),
    [
        ("def mine(completion, label): return 0.5\n", "auto", "texts"),
        ("def mine(label, completion, weight=1.0): return 0.5\n", "auto", "texts"),
        ("mine = lambda *, completion, label: 0.5\n", "auto", "texts"),
        ("def mine(**texts): return 0.5\n", "omni", "texts"),
        ("def mine(request): return 0.5\n", "auto", "request"),
        ("def mine(request, strict=True): return 0.5\n", "auto", "request"),
        ("def mine(sample): return 0.5\n", "omni", "request"),
        ("def mine(requests): return [0.5 for _ in requests]\n", "auto", "requests"),
        ("def mine(requests): return [0.5 for _ in requests]\n", "omni", "requests"),
        ("def mine(completions, **kwargs): return [0.5 for _ in completions]\n", "auto", "trl"),
        ("def mine(prompts, completions): return [0.5 for _ in completions]\n", "auto", "trl"),
        ("def mine(data_source, solution_str, ground_truth, extra_info=None): return 0.5\n", "auto", "verl"),
        ("def mine(solution_str, ground_truth): return {'score': 0.5}\n", "auto", "verl"),
        (
            "def mine(completions, solution_str=0, ground_truth=0): return [0.5 for _ in completions]\n",
            "trl",
            "trl",
        ),
        ("class mine:\n    def __call__(self, completion, label): return 0.5\n", "auto", "texts"),
        ("class mine:\n    def score(self, request): return 0.5\n", "auto", "request"),
        ("async def mine(completion, label): return 0.5\n", "auto", "texts"),
        ("class mine:\n    async def __call__(self, request): return 0.5\n", "auto", "request"),
    ],
)
def test_a_style_is_told_by_the_parameters(folder: Path, text: str, style: str, shape: Shape) -> None:
    plugin = loaded(folder, text, style=style)
    assert plugin.shape == shape
    assert plugin.is_async == ("async" in text)
    requests = [make_request("a"), make_request("b")]
    asked = requests if plugin.takes_groups else requests[:1]
    outcomes = asyncio.run(plugin.ask_async(asked)) if plugin.is_async else plugin.ask(asked)
    assert [o.value for o in outcomes if isinstance(o, RewardResult)] == [0.5] * len(asked)


def test_the_decision_is_told(folder: Path) -> None:
    plugin = loaded(folder, "def mine(completions, **kwargs): return [0.0]\n")
    assert plugin.decision == (
        f"reward mine: {MODULE}:mine is called in trl style, a group at a time, as it takes completions"
    )
    assert "as style=omni is set" in loaded(folder, "def mine(**texts): return 0.0\n", style="omni").decision


def test_options_make_a_class_and_are_given_to_a_function(folder: Path) -> None:
    plugin = loaded(
        folder,
        "class mine:\n    def __init__(self, factor): self.factor = factor\n"
        "    def __call__(self, completion, label): return self.factor * len(completion)\n",
        options={"factor": 2},
    )
    assert plugin.ask([make_request("abc")]) == [RewardResult(value=6.0)]
    sys.modules.pop(MODULE)
    plugin = loaded(folder, "def mine(completion, label, factor): return factor\n", options={"factor": 3})
    assert plugin.ask([make_request("abc")]) == [RewardResult(value=3.0)]


def test_options_that_do_not_fit_are_refused(folder: Path) -> None:
    text = "class mine:\n    def __init__(self, factor): ...\n    def __call__(self, completion, label): ...\n"
    assert "missing a required argument: 'factor'" in complaint(folder, text, check_plugin)
    assert "missing 1 required positional argument: 'factor'" in complaint(folder, text)
    sys.modules.pop(MODULE)
    said = complaint(folder, "def mine(completion, label): ...\n", options={"factor": 1})
    assert "with (completion, label)" in said


@pytest.mark.parametrize("load", [load_plugin, check_plugin])
@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("def mine(completion, label): ...\n", "label"),
        ("def mine(request): ...\n", "request"),
        ("def mine(completions, **columns): ...\n", "completions"),
        ("def mine(solution_str, ground_truth): ...\n", "ground_truth"),
    ],
)
def test_an_option_in_the_place_of_what_is_scored_is_refused(
    folder: Path, text: str, option: str, load: Callable[[PluginSpec], object]
) -> None:
    said = complaint(folder, text, load, options={option: "x"})
    assert f"must not have an option {option}, got one, which would replace what is scored" in said


@pytest.mark.parametrize(
    "text",
    [
        "def mine(completions, dataset): return [float(dataset)] * len(completions)\n",
        "def mine(completions, **columns): return [float(columns['dataset'])] * len(completions)\n",
    ],
)
def test_an_option_of_a_columns_name_stands_before_the_column(folder: Path, text: str) -> None:
    plugin = loaded(folder, text, options={"dataset": "3"})
    assert plugin.ask([make_request("a"), make_request("b")]) == [RewardResult(value=3.0)] * 2


def test_a_reward_in_trls_style_is_given_what_trl_gives(folder: Path) -> None:
    record = replace(make_record(label="sad"), transcript="so", labels=("sad", "fear"))
    plugin = loaded(
        folder,
        "SEEN = {}\ndef mine(prompts, **kw):\n    SEEN.update(kw, prompts=prompts)\n    return [1, None]\n",
        style="trl",
    )
    outcomes = plugin.ask([make_request("x", record=record), make_request("y", record=record)])
    assert outcomes == [RewardResult(value=1.0), RewardResult(value=None)]
    seen: Mapping[str, Any] = sys.modules[MODULE].SEEN
    assert seen["completions"] == [[{"role": "assistant", "content": "x"}], [{"role": "assistant", "content": "y"}]]
    assert seen["prompts"] == [[{"role": "user", "content": "How?"}]] * 2
    assert seen["solution"] == ["<answer>sad</answer>"] * 2
    assert (seen["labels"], seen["transcript"]) == ([["sad", "fear"]] * 2, ["so", "so"])
    assert seen["video"] == ["/data/clip-0.mp4"] * 2
    plain = loaded(folder, "", style="trl", is_conversational=False)
    plain.ask([make_request("x", record=record), make_request("y", record=record)])
    assert seen["completions"] == ["x", "y"]
    assert seen["prompts"] == ["How?", "How?"]


def test_a_reward_in_verls_style_is_given_what_verl_gives(folder: Path) -> None:
    text = (
        "def mine(data_source, solution_str, ground_truth, extra_info):\n"
        "    return {'score': 1.5, 'words': 3, 'told': f'{data_source} {solution_str} {ground_truth}', "
        "'split': len(extra_info['split'])}\n"
    )
    (outcome,) = loaded(folder, text).ask([make_request("x", label="sad")])
    # what is no number is no fact
    assert outcome == RewardResult(value=1.5, facts={"words": 3.0, "split": 5.0})


def test_a_reward_sees_everything_that_is_known(folder: Path) -> None:
    record: Record = replace(make_record(label="sad"), taxonomy="dfew", label_distribution={"sad": 0.75})
    text = (
        "def mine(request):\n    r = request.record\n"
        "    assert (r.taxonomy, request.token_ids) == ('dfew', (1, 2))\n"
        "    return r.label_distribution[request.label]\n"
    )
    assert loaded(folder, text).ask([make_request("x", record=record)]) == [RewardResult(value=0.75)]


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.25, 0.25), (True, 1.0), (np.float32(0.5), 0.5), (np.bool_(True), 1.0), (np.array([2.0]), 2.0)],
)
def test_numbers_of_every_kind_are_rewards(value: object, number: float) -> None:
    assert checked(value) == RewardResult(value=number)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1.0", "type"),
        (b"1", "type"),
        ([1.0], "type"),
        (1j, "type"),
        (np.array([1.0, 2.0]), "type"),
        ({"reward": 1.0}, "type"),
        ({"score": "1"}, "type"),
        (RewardResult(value="1"), "type"),  # pyright: ignore[reportArgumentType]
        (object(), "type"),
        ({"score": 1.0, "facts": [1.0]}, "type"),
        (RewardResult(value=1.0, facts=[1.0]), "type"),  # pyright: ignore[reportArgumentType]
        (RewardResult(value=1.0, facts={"x" * 129: 1.0}), "type"),
        (RewardResult(value=1.0, facts={str(i): 1.0 for i in range(257)}), "type"),
        (math.nan, "not-finite"),
        (math.inf, "not-finite"),
        (np.float32("nan"), "not-finite"),
        ({"score": -math.inf}, "not-finite"),
        (10**400, "not-finite"),
        (RewardResult(value=math.nan), "not-finite"),
    ],
)
def test_what_is_no_finite_number_is_a_fault(value: object, kind: str) -> None:
    got = checked(value)
    assert isinstance(got, RewardFault)
    assert got.kind == kind
    assert got.detail.startswith("a reward")


def test_none_says_that_a_reward_does_not_apply() -> None:
    assert checked(None) == RewardResult(value=None)
    assert checked({"score": None, "detail": "no audio"}) == RewardResult(value=None, detail="no audio")
    assert checked(RewardResult(value=None, detail="no audio")) == RewardResult(value=None, detail="no audio")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0], "length"),
        ([1.0] * 3, "length"),
        (1.0, "type"),
        ("ab", "type"),
        ({0.5, 1.0}, "type"),
        (np.array(1.0), "type"),
    ],
)
def test_a_group_has_a_value_for_each_completion(values: object, kind: str) -> None:
    got = checked_all(values, count=2)
    assert [g.kind for g in got if isinstance(g, RewardFault)] == [kind, kind]


def test_a_value_that_fails_when_it_is_looked_at_is_a_fault() -> None:
    class Hostile:
        shape, __len__ = (2,), None

        def __str__(self) -> str:
            raise RuntimeError("not to be shown")

        def item(self) -> float:
            raise OSError("not to be read")

    for got in (checked(Hostile()), *checked_all(Hostile(), count=2)):
        assert isinstance(got, RewardFault)
        assert got.kind == "error"
    got = checked(RewardResult(value=1.0, detail=Hostile()))  # pyright: ignore[reportArgumentType]
    assert got == RewardResult(value=1.0, detail="(a Hostile that cannot be shown)")


def test_what_a_reward_tells_can_be_encoded_and_is_of_bounded_length() -> None:
    got = checked(RewardResult(value=1.0, detail="\udc80" + "x" * 5000, facts={"\ud800": 1.0}))
    assert isinstance(got, RewardResult)
    assert got.detail == "\\udc80" + "x" * 3994 + "... and 1006 characters more"
    assert got.facts == {"\\ud800": 1.0}
    fault = fault_of(ValueError("x" * 5000 + "\udc80"))
    assert len(fault.detail) == 4000
    assert fault.detail.endswith("x\\udc80")


def test_one_value_that_is_none_leaves_the_others_as_they_are() -> None:
    first, second, third = checked_all((1.0, "x", np.float64(2)), count=3)
    assert (first, third) == (RewardResult(value=1.0), RewardResult(value=2.0))
    assert isinstance(second, RewardFault)


def test_a_fault_tells_the_users_lines_and_none_of_ours(folder: Path) -> None:
    deeper = "def deeper():\n    raise KeyError('no such emotion')\n"
    text = f"{deeper}\ndef mine(completion, label):\n    return deeper()\n"
    (outcome,) = loaded(folder, text).ask([make_request("x")])
    assert isinstance(outcome, RewardFault)
    assert outcome.kind == "error"
    lines = outcome.detail.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f'{MODULE}.py", line 5, in mine' in lines[1]
    assert lines[-1] == "KeyError: 'no such emotion'"
    assert "plugins.py" not in outcome.detail


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "import sys; sys.exit()", "raise KeyboardInterrupt"])
def test_an_exit_is_a_fault(folder: Path, text: str) -> None:
    (outcome,) = loaded(folder, f"def mine(completion, label):\n    {text}\n").ask([make_request("x")])
    assert isinstance(outcome, RewardFault)
    assert "line 2, in mine" in outcome.detail


def test_an_exception_that_cannot_be_shown_is_a_fault() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "UnspeakableError" in fault_of(UnspeakableError()).detail
