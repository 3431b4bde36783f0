"""An evaluation as files: `report.html` for people, `report.json` for programs, a picture, and every prediction.

The page is one file: it names no other and reaches for no network. Whatever a model or a corpus wrote is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from common.evaluation.assessment import Assessment, ReadPrediction, assess, read_all
from common.evaluation.bootstrap import NUM_RESAMPLES
from common.evaluation.comparison import Comparison, contributions, run_differences
from common.evaluation.confusion import MAX_CLASSES, OTHER, Confusion
from common.evaluation.controls import MEANINGS
from common.evaluation.picture import write_confusions
from common.evaluation.predictions import AS_GIVEN, Prediction, line_of
from common.evaluation.published import caveats_on, published_on
from common.runtime.atomic_files import atomic_write_text

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    name: str
    sources: tuple[str, ...]
    """Sources of the predictions, for people."""
    assessments: tuple[Assessment, ...]
    contributions: tuple[Comparison, ...]
    """Conditions minus the clips as given."""
    comparisons: tuple[Comparison, ...]
    """This run minus another."""
    read: tuple[ReadPrediction, ...]
    seed: int
    """Seed of the resampling."""


def make_report(
    predictions: Sequence[Prediction],
    *,
    name: str,
    sources: Sequence[str],
    taxonomy: str | None = None,
    other: tuple[str, Sequence[Prediction]] | None = None,
    seed: int = 0,
) -> Report:
    """Scores predictions, and compares their conditions and another run.

    `sources` are the paths to show; `other` is the name and the predictions of another run.

    Raises:
        DatasetError: as in `assess`, `contributions` and `run_differences`.
    """
    assessments = assess(predictions, taxonomy=taxonomy, seed=seed)
    read = read_all(predictions, taxonomy=taxonomy)
    comparisons: list[Comparison] = []
    if other is not None:
        against, theirs = other
        comparisons = run_differences(read, read_all(theirs, taxonomy=taxonomy), against=against, seed=seed)
    return Report(
        name=name,
        sources=tuple(sources),
        assessments=tuple(assessments),
        contributions=tuple(contributions(read, seed=seed)),
        comparisons=tuple(comparisons),
        read=tuple(read),
        seed=seed,
    )


def write_report(folder: Path, report: Report) -> Path:
    """Writes all files into a folder that only its owner can read, and returns the page."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = (json.dumps(_line(member), ensure_ascii=False) + "\n" for member in report.read)
    atomic_write_text(folder / "predictions.jsonl", "".join(lines))
    write_confusions(folder / "confusion.png", [(a.dataset, a.confusion) for a in _heads(report)])
    atomic_write_text(folder / "report.json", json.dumps(facts(report), ensure_ascii=False, indent=1) + "\n")
    atomic_write_text(folder / "report.html", page(report))
    return folder / "report.html"


def facts(report: Report) -> dict[str, Any]:
    """All values, as fractions; published values are in percent."""
    return {
        "name": report.name,
        "sources": list(report.sources),
        "num_resamples": NUM_RESAMPLES,
        "seed": report.seed,
        "assessments": [
            {
                **asdict(a),
                "confusion": _confusion(a.confusion),
                "recall": a.confusion.recall,
                "support": a.confusion.support,
            }
            for a in report.assessments
        ],
        "contributions": [asdict(c) for c in report.contributions],
        "comparisons": [asdict(c) for c in report.comparisons],
        "published": [asdict(row) for a in _heads(report) for row in published_on(a.dataset)],
        "caveats": {a.dataset: list(caveats_on(a.dataset)) for a in _heads(report)},
    }


def _confusion(table: Confusion) -> dict[str, Any]:
    # as many cells as the square of the classes: the table has at most `MAX_CLASSES`
    counts = table.counts if len(table.classes) <= MAX_CLASSES else None
    return {"classes": table.classes, "counts": counts}


def page(report: Report) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    heads = _heads(report)
    return environment.get_template(TEMPLATE).render(
        name=report.name,
        sources=report.sources,
        assessments=report.assessments,
        heads=heads,
        comparisons=report.comparisons,
        controls=_controls(report),
        published=[
            {"dataset": a.dataset, "ours": a, "rows": rows, "caveats": caveats_on(a.dataset)}
            for a in heads
            if (rows := published_on(a.dataset))
        ],
        examples=_examples(report.read, heads),
        other=OTHER,
        max_classes=MAX_CLASSES,
        num_resamples=f"{NUM_RESAMPLES:,}",
        seed=report.seed,
    )


def _heads(report: Report) -> list[Assessment]:
    """The unchanged clips of each dataset, or its first condition."""
    chosen: dict[str, Assessment] = {}
    for a in report.assessments:
        if a.dataset not in chosen or (a.condition == AS_GIVEN != chosen[a.dataset].condition):
            chosen[a.dataset] = a
    return list(chosen.values())


def _controls(report: Report) -> list[dict[str, Any]]:
    differences = {(c.dataset, c.condition): c.difference for c in report.contributions}
    datasets = {dataset for dataset, _ in differences}
    meanings = cast("Mapping[str, str]", MEANINGS)
    rows = [
        {
            "assessment": a,
            "difference": differences.get((a.dataset, a.condition)),
            "meaning": meanings.get(a.condition, ""),
            "is_base": a.condition == AS_GIVEN,
        }
        for a in report.assessments
        if a.dataset in datasets
    ]
    return sorted(rows, key=lambda row: (row["assessment"].dataset, not row["is_base"]))


def _examples(read: Sequence[ReadPrediction], heads: Sequence[Assessment]) -> list[ReadPrediction]:
    shown = {(a.dataset, a.condition) for a in heads}
    chosen: dict[tuple[str, str, bool], ReadPrediction] = {}
    for candidate in read:
        if (candidate.prediction.dataset, candidate.prediction.condition) in shown:
            chosen.setdefault((candidate.prediction.dataset, candidate.label, candidate.is_right), candidate)
    return [chosen[key] for key in sorted(chosen, key=lambda key: (key[0], key[1], not key[2]))]


def _line(read: ReadPrediction) -> dict[str, Any]:
    return {
        **line_of(read.prediction),
        "normalised_label": read.label,
        "normalised": read.answer,
        "is_right": read.is_right,
    }
