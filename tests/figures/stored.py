"""The measured values and their notation."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.evaluation.published import PAPER

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "figures"
Stored = Mapping[str, Any]
SCALES = {
    ("", "%"): 100.0,
    ("", "points"): 100.0,
    ("s", "min"): 1 / 60,
    ("s", "minutes"): 1 / 60,
    ("s", "ms"): 1e3,
    ("B", "GB"): 1e-9,
    ("B", "GiB"): 2.0**-30,
}
"""Factors from the unit of a stored value to the unit of the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured value."""

    value: float
    unit: str


def load() -> dict[str, Stored]:
    """Every file by its name; the values of R1-Omni's paper as `published.<method>.<dataset>.<war or uar>`."""
    stored: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
    stored["published"] = published = dict[str, Any]()
    for row in PAPER:
        scores = {score: {"value": value, "unit": "%"} for score, value in (("war", row.war), ("uar", row.uar))}
        published.setdefault(row.method, {})[row.dataset] = scores
    return stored


def figure(stored: Stored, key: str) -> Figure:
    """The value of a dotted key: `FILE.KEY`, or `FILE.GROUP.KEY`; items of lists by their number.

    Raises:
        KeyError: there is no such value.
    """
    node: Any = stored
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node.get("figures", node)[part]
    if isinstance(node, Mapping):
        return Figure(value=node["value"], unit=node.get("unit", ""))
    return Figure(value=node, unit=unit_of(key))


def unit_of(key: str) -> str:
    """The unit of a number in a run's summary."""
    if key.endswith("_bytes"):
        return "B"
    return "s" if "seconds_" in key else ""


def like(shown: str, measured: Figure) -> str:
    """The figure in the unit, format and number of digits of a text such as `35.7 %`, `1,611` or `2 min 21 s`.

    Raises:
        KeyError: the text is in a unit that the figure cannot be converted to.
    """
    if re.fullmatch(r"\d+ min \d+ s", shown):
        minutes, seconds = divmod(round(measured.value), 60)
        return f"{minutes} min {seconds} s"
    number, space, unit = re.fullmatch(r"(\S*\d)(\s*)(.*)", shown).groups()
    scale = 1.0 if unit in ("", measured.unit) else SCALES[measured.unit, unit]
    mantissa, _, exponent = number.partition("e")
    digits = len(mantissa.partition(".")[2])
    text = f"{measured.value * scale:,.{digits}{'e' if exponent else 'f'}}"
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].strip("+"), text) + space + unit
