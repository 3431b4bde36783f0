"""The page of an evaluation: it says what the figures are, reaches for nothing, and runs nothing that it quotes."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.evaluation.confusion import confusion_of
from common.evaluation.predictions import Prediction
from common.evaluation.published import CAVEATS, OTHERS, PAPER, caveats_on, published_on
from common.evaluation.report import make_report, page, write_report
from tests.support.predictions import line

VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Fails at a tag that closes another than the last; collects texts, tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closes."""
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        """Text."""
        self.texts.append(data.strip())


def prediction(name: str, label: str, said: str, **more: Any) -> Prediction:
    """One answer."""
    return Prediction(**line(name, label, said, **more))


def predictions(**more: Any) -> list[Prediction]:
    """Of two conditions and two folds."""
    return [
        prediction(str(i), label, said, fold=fold, condition=condition, **more)
        for condition, said in (("av", "sad"), ("video_only", "happy"))
        for fold in (1, 2)
        for i, label in enumerate(["sad", "sad", "sad", "happy"])
    ]


def parsed(given: list[Prediction], **more: Any) -> Balanced:
    """The page of a report on them."""
    found = Balanced()
    found.feed(page(make_report(given, name="grpo", sources=["p.jsonl"], **more)))
    assert found.open == []
    return found


def test_the_page_says_every_figure_and_what_it_is() -> None:
    texts = parsed(predictions()).texts
    shown = " ".join(texts)
    for part in (
        "75.0",
        "macro F1",
        "fold by fold",
        "mean",
        "What the answers rest on",
        "the picture without its sound",
    ):
        assert part in shown, part
    # video_only is right on 1 of 4, as given on 3 of 4: on 8 clips 6 against 2
    assert "-50.0" in texts
    assert "0.289" in shown
    assert "beside published figures" in shown
    assert "65.83" in texts


def test_the_page_reaches_for_nothing() -> None:
    found = parsed(predictions(video="https://example.org/a.mp4"))
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "img", "iframe", "a", "form", "object"}
    assert not any(name in {"src", "href"} or name.startswith("on") for _, given in found.tags for name in given)
    policy = next(given["content"] for tag, given in found.tags if given.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    styles = " ".join(found.texts)
    assert "url(" not in styles
    assert "@import" not in styles
    assert "prefers-color-scheme: dark" in styles


EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>&amp;{{ name }}"


@pytest.mark.parametrize("field", ["id", "text", "video", "failure", "dataset", "condition"])
def test_whatever_was_written_is_text(field: str) -> None:
    values = line("0") | {field: EVIL}
    given = [Prediction(**values), prediction("1", "happy", "sad", **{field: EVIL} if field == "condition" else {})]
    given += [prediction(p.id, p.label, "sad", condition="x", dataset=p.dataset) for p in given]
    found = Balanced()
    report = make_report(given, name=EVIL, sources=[EVIL], taxonomy="dfew")
    found.feed(page(report))
    assert not {tag for tag, _ in found.tags} & {"script", "img"}
    assert any(EVIL in text for text in found.texts)


def test_open_labels_of_a_model_are_text_too() -> None:
    given = [prediction("0", "<b>wild</b>", "sad"), prediction("1", "sad", "<i>sad</i>")]
    found = Balanced()
    found.feed(page(make_report(given, name="x", sources=[], taxonomy="open")))
    assert not {tag for tag, _ in found.tags} & {"b", "i"}
    assert "<b>wild</b>" in " ".join(found.texts)


def test_another_run_is_on_the_page() -> None:
    theirs = [prediction(p.id, p.label, "sad", fold=p.fold) for p in predictions() if p.condition == "av"]
    shown = " ".join(parsed(predictions(), other=("cold_start", theirs)).texts)
    assert "Against cold_start" in shown
    assert "1.000" in shown


def test_a_dataset_of_which_nothing_is_published_has_no_such_table() -> None:
    given = [prediction("0", "sad", "sad", dataset="mine", taxonomy="dfew")]
    assert "beside published" not in " ".join(parsed(given).texts)


def test_too_many_classes_are_no_table() -> None:
    labels = ["".join(chr(97 + int(d)) for d in f"{i:03d}") for i in range(60)]
    given = [prediction(str(i), label, label, dataset="mine", taxonomy="open") for i, label in enumerate(labels)]
    found = parsed(given)
    assert "60 classes are too many" in " ".join(found.texts)
    assert not [given for _, given in found.tags if given.get("class") == "heat"]


def test_five_thousand_open_labels_are_written_in_their_number_and_not_its_square(tmp_path: Path) -> None:
    labels = ["".join(chr(97 + int(d)) for d in f"{i:04d}") for i in range(5_000)]
    report = make_report([prediction("0", "sad", "sad")], name="x", sources=[], taxonomy="open")
    # ten thousand resamples of so many cells take longer than a unit test may
    many = replace(report.assessments[0], confusion=confusion_of(labels, labels))
    folder = write_report(tmp_path / "eval", replace(report, assessments=(many,))).parent
    text = (folder / "report.json").read_text()
    # labels, recalls and supports, a line each
    assert len(text) < 1_000_000
    (found,) = json.loads(text)["assessments"]
    assert found["confusion"]["counts"] is None
    assert len(found["confusion"]["classes"]) == len(found["recall"]) == len(found["support"]) == 5_000
    assert set(found["recall"].values()) == {1.0}
    assert "5000 classes are too many for a table" in (folder / "report.html").read_text()
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_written_is_whole_and_the_owners(tmp_path: Path) -> None:
    report = make_report(predictions(), name="grpo", sources=["p.jsonl"])
    found = write_report(tmp_path / "eval" / "grpo", report)
    assert found == tmp_path / "eval" / "grpo" / "report.html"
    assert oct(found.parent.stat().st_mode & 0o777) == "0o700"
    facts = json.loads((found.parent / "report.json").read_text())
    assert [(a["condition"], a["normalised"]["war"]["value"]) for a in facts["assessments"]] == [
        ("av", 0.75),
        ("video_only", 0.25),
    ]
    assert facts["contributions"][0]["difference"]["war"]["value"] == -0.5
    assert facts["caveats"]["dfew"] == list(caveats_on("dfew"))
    assert len((found.parent / "predictions.jsonl").read_text().splitlines()) == 16


def test_published_rows_are_those_of_the_papers() -> None:
    paper = {(row.dataset, row.method): (row.war, row.uar) for row in PAPER}
    assert paper["dfew", "R1-Omni"] == (65.83, 56.27)
    assert paper["mafw", "R1-Omni"] == (57.68, 40.04)
    assert paper["ravdess", "R1-Omni"] == (43.00, 44.69)
    assert len(paper) == len(PAPER) == 12
    everything = [(row.dataset, row.method) for row in (*PAPER, *OTHERS)]
    assert len(everything) == len(set(everything))
    for row in (*PAPER, *OTHERS):
        assert row.source
        # WAR is weighted by the common classes, which are recognised better: a swapped pair would show
        if row.war is not None and row.uar is not None and row.dataset != "ravdess":
            assert row.war > row.uar
    assert published_on("DFEW")[3].method == "R1-Omni"
    assert published_on("mine") == ()
    assert caveats_on("mine") == ()


def test_every_dataset_with_figures_has_its_caveats() -> None:
    assert {row.dataset for row in (*PAPER, *OTHERS)} == set(CAVEATS) - {""}
    assert all(re.fullmatch(r"[A-Z].*\.", caveat) for caveats in CAVEATS.values() for caveat in caveats)
