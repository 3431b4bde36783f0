"""Numbers in documents are those that were measured."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from deploy.reporting.summary import Summary
from tests.figures.quotes import DOCUMENTS, NOT_MEASURED, PAGE, QUOTE, TABLE, faults, faults_of_all, rewritten
from tests.figures.stored import ROOT, Figure, figure, like, load
from tests.figures.tables import SEEDS, TABLES, three_digits

STORED = load()
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
ALLOWED = json.loads(NOT_MEASURED.read_text())
WAR = "62.9 %<!-- figure: demo-seed-0.war_grpo -->"


def faults_in(text: str, name: str = "README.md", *, allowed: Any = (), stored: Any = STORED) -> list[str]:
    """Of a document with this text."""
    return list(faults(name, text, stored, allowed))


def test_every_number_in_the_documents_is_as_it_was_measured() -> None:
    assert faults_of_all() == []


def digits_of(text: str) -> Iterator[int]:
    """Positions of the digits in quoted figures and in generated tables."""
    for found in (*QUOTE.finditer(text), *TABLE.finditer(text)):
        start, end = found.span("shown" if "shown" in found.groupdict() else "body")
        yield from (start + match.start() for match in re.finditer(r"\d", text[start:end]))


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if QUOTE.search(text) or TABLE.search(text)])
def test_no_digit_of_a_figure_can_change_in_a_document(name: str) -> None:
    text = TEXTS[name]
    for position in list(digits_of(text))[:: 7 if name == PAGE else 1]:
        changed = text[:position] + str((int(text[position]) + 1) % 10) + text[position + 1 :]
        assert faults_in(changed, name, allowed=ALLOWED), changed[position - 40 : position + 40]


def leaves(found: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers of a file stand."""
    if isinstance(found, dict | list):
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            yield from leaves(value, (*path, key))
    elif isinstance(found, int | float):
        yield path


@pytest.mark.parametrize("name", sorted({file for table in TABLES.values() for file in table.files}))
def test_no_digit_of_a_stored_figure_can_change_alone(name: str) -> None:
    shown = [
        document
        for document in TEXTS
        if any(name in TABLES[t["name"]].files for t in TABLE.finditer(TEXTS[document]))
    ]
    for *path, last in leaves(STORED[name]):
        changed: Any = copy.deepcopy(STORED)
        holder = changed[name]
        for key in path:
            holder = holder[key]
        holder[last] = holder[last] * (1 + 2**-50) if isinstance(holder[last], float) else holder[last] + 1
        if holder[last] != 0:
            assert any(rewritten(TEXTS[document], changed) != TEXTS[document] for document in shown), (path, last)


def test_every_file_of_figures_is_shown() -> None:
    files = {file for table in TABLES.values() for file in table.files}
    assert files | {"not-measured", "published"} == STORED.keys()
    shown = {match["name"] for text in TEXTS.values() for match in TABLE.finditer(text)}
    assert shown == TABLES.keys()


@pytest.mark.parametrize(
    "text",
    [
        "It ended at 0.63.",
        "It ended at 63 % in the end.",
        "It took 12 s.",
        "It took 3 minutes.",
        "Differences under 1e-5.",
        "It made 1,611 requests/s.",
        "It made 90 samples/s.",
        "0.63, 0.64 and\n0.65",
        "It holds 3 GiB.",
        f"{WAR} and 64 %",
        "| WAR | 0.63 |",
        "2.60 of Ray",
        "It was 4 times faster.",
        f"x\n\n    0.63 in code\n\n{WAR} and 1.5",
    ],
)
def test_a_number_that_looks_measured_needs_a_reference(text: str) -> None:
    assert "must have a reference" in "".join(faults_in(text))
    assert text.count("\n") == 0 or faults_in(text)[-1].startswith(f"README.md:{text.count(chr(10)) + 1}:")


@pytest.mark.parametrize(
    "text",
    [
        "Ray 2.60, vLLM 0.32 and transformers 5.19",
        "Python 3.11, 3.12 and 3.13",
        "Python 3.11 to 3.13",
        "Qwen2.5-Omni-3B, mp4, H.264",
        "994 clips, seeds 0, 1 and 2",
        "`lr: 1e-6`",
        "[paper](https://arxiv.org/abs/2503.05379)",
        "```yaml\nlr: 1e-6\n```\n",
        "    lr: 1e-6\n",
        WAR,
        "WAR 0.629<!-- figure: demo-seed-0.war_grpo -->",
        "65.83 %<!-- figure: published.R1-Omni.dfew.war -->",
        "200<!-- figure: demo-seed-0.grpo_steps --> steps",
    ],
)
def test_what_was_not_measured_or_has_a_reference_is_no_fault(text: str) -> None:
    assert faults_in(text) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("62.8 %<!-- figure: demo-seed-0.war_grpo -->", "must read '62.9 %"),
        ("63 %<!-- figure: demo-seed-0.war_grpoo -->", "must name a figure"),
        ("63 %<!-- figure: demo.war_grpo -->", "must name a figure"),
        ("63 ms<!-- figure: demo-seed-0.war_grpo -->", "in a unit that it has"),
        ("three<!-- figure: demo-seed-0.war_grpo -->", "directly behind a number"),
        ("62.9 % <!-- figure: demo-seed-0.war_grpo -->", "directly behind a number"),
        ("<!-- figures: demo, of 0 -->\nno end", "around a table"),
        ("<!-- figures: demos, of 0 -->\n<!-- end of figures -->", "must name a figure"),
    ],
)
def test_a_reference_must_hold(text: str, fault: str) -> None:
    assert fault in faults_in(text)[0]


def test_an_entry_without_its_number_is_a_fault() -> None:
    entry = {"document": "README.md", "text": "at most 5 s", "reason": "a setting"}
    assert faults_in("It waits at\nmost 5 s.", allowed=[entry]) == []
    assert "remove the entry" in faults_in("It waits at most 6 s.", allowed=[entry])[0]
    assert "remove the entry" in faults_in("It waits.", allowed=[entry | {"text": "waits"}])[0]
    assert "must have a reference" in faults_in("It waits 5 s.", "docs/a.md", allowed=[entry])[0]
    assert all(entry["reason"] for entry in ALLOWED)


def test_on_the_page_of_measurements_every_number_of_two_digits_is_a_figure() -> None:
    assert faults_in("It had 85 right.", PAGE)
    assert faults_in("It had 85 right.") == []


@pytest.mark.parametrize(
    ("shown", "value", "unit", "expected"),
    [
        ("0.00", 0.6285, "", "0.63"),
        ("0 %", 0.6285, "", "63 %"),
        ("0.0%", 0.6287, "", "62.9%"),
        ("0", 1611.4, "requests/s", "1,611"),
        ("0 requests/s", 1611, "requests/s", "1,611 requests/s"),
        ("0.0 GiB", 11405837312, "B", "10.6 GiB"),
        ("0 min 0 s", 141, "s", "2 min 21 s"),
        ("0 minutes", 803.5, "s", "13 minutes"),
        ("0e-5", 1.49e-5, "", "1e-5"),
        ("0.0e-5", 1.49e-5, "", "1.5e-5"),
    ],
)
def test_a_figure_is_written_as_the_text_before_it(shown: str, value: float, unit: str, expected: str) -> None:
    assert like(shown, Figure(value=value, unit=unit)) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.83, "", "0.83"),
        (1.0, "", "1"),
        (0.004797, "", "0.0048"),
        (1.63e-4, "", "1.6e-4"),
        (5e-05, "", "5e-5"),
        (12.496, "s", "12.5"),
        (1347, "s", "1,350"),
        (3103, "tests", "3,103"),
        (137_000, "samples/s", "137,000"),
        (6.788e14, "", "6.79e14"),
        (5_549_248_512, "B", "5.17 GiB"),
        (0, "", "0"),
    ],
)
def test_a_measurement_has_three_digits_and_a_count_all(value: float, unit: str, expected: str) -> None:
    assert three_digits(value, unit) == expected


def test_what_is_written_is_what_is_checked() -> None:
    stale = (
        "<!-- figures: demo-war, of 0 -->\nold\n<!-- end of figures -->\n1.1 %<!-- figure: demo-seed-0.war_grpo -->"
    )
    assert faults_in(stale)
    assert faults_in(rewritten(stale, STORED)) == []


@pytest.mark.parametrize("name", SEEDS)
def test_summaries_are_those_of_a_run(name: str) -> None:
    summary = STORED[name]
    assert summary.keys() == {field.name for field in fields(Summary)}
    for key, value in summary.items():
        if key.startswith("war_") and value is not None:
            assert value * summary["num_heldout"] == pytest.approx(round(value * summary["num_heldout"]), abs=1e-9)


def test_files_agree_where_they_hold_the_same_figure() -> None:
    def value(key: str) -> float:
        return round(figure(STORED, key).value, 3)

    assert value("settings.grpo.4.own.1.war") == value("demo-seed-0.war_grpo")
    assert value("settings.grpo.4.own.1.cold_start") == value("demo-seed-0.war_cold_start")
    assert value("settings.grpo.4.shuffled.1.war") == value("controls.shuffled.war")
    gain = value("controls.shuffled.war") - value("demo-seed-0.war_cold_start")
    assert value("controls.shuffled.above_cold_start") == pytest.approx(gain, abs=1e-9)
