"""The menu of rewards, held against the rewards."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from reward.builtin import BUILTIN

MENU = (Path(__file__).parents[4] / "docs" / "rewards.md").read_text()


def entries() -> list[dict[str, Any]]:
    """Every line of the menu's configuration."""
    block = MENU.split("```yaml\n")[1].split("```")[0]
    return yaml.safe_load(block)["reward"]["rewards"]


def test_every_line_makes_its_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rubric.txt").write_text(MENU.split("```text\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    made = [BUILTIN[entry.get("builtin", entry["name"])](**entry.get("options", {})) for entry in entries()]
    assert {type(reward) for reward in made} == set(BUILTIN.values())
    assert {entry["type"] for entry in entries()} == {"builtin"}


def test_the_menu_has_every_reward_once() -> None:
    rows = [line.split("|")[1].strip().strip("`") for line in MENU.splitlines() if line.startswith("| `")]
    # the second table is of figures
    assert sorted(rows[: len(BUILTIN)]) == sorted(BUILTIN)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_reward_documents_itself(name: str) -> None:
    text = BUILTIN[name].__doc__ or ""
    assert [part for part in ("Formula:", "Range:", "Source:", "Caution:") if part not in text] == []


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_options_are_fixed_once_made_and_given_by_name(name: str) -> None:
    kind = BUILTIN[name]
    assert kind.__dataclass_params__.frozen
    assert all(option.kw_only for option in dataclasses.fields(kind))
    assert "__slots__" in vars(kind)
