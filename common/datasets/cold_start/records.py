"""Data for the cold start: R1-Omni's JSON of explanations, and a file with the origin of each record.

The paper used 232 clips of EMER and 348 annotated clips of HumanOmni (R1-Omni, README). Neither list is published,
so clips are drawn with a seed.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.questions import QUESTION
from common.datasets.explanations import THINK
from common.errors import DatasetError
from common.runtime.atomic_files import atomic_write_text
from common.types import Record

NUM_EXPLAINED, NUM_ANNOTATED = 232, 348
"""Numbers of clips in the paper: with the reasons of EMER, and annotated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """A clip with the answer to learn."""

    record: Record
    response: str
    provenance: Mapping[str, Any]
    """The origin of the answer."""


def from_reasons(records: Sequence[Record], *, count: int, seed: int) -> list[Explained]:
    """Draws records with an explanation, by a hash of their ids; raises `DatasetError` if there are too few."""
    able = [r for r in records if r.response is not None and THINK.search(r.response)]
    if len(able) < count:
        raise DatasetError(
            f"--count must be <= the {len(able)} of {len(records)} clips that have reasons, got {count}; lower it "
            "or give the file of reasons"
        )
    return [
        Explained(record=record, response=str(record.response), provenance={"kind": "reasons", "seed": seed})
        for record in shuffled(able, seed=seed)[:count]
    ]


def shuffled(records: Iterable[Record], *, seed: int) -> list[Record]:
    """All records in a seeded order that does not depend on the other records."""
    return sorted(records, key=lambda r: hashlib.sha256(f"{seed}/{r.dataset}/{r.prompt_id}".encode()).digest())


def write_cold_start(path: Path, explained: Iterable[Explained]) -> Path:
    """Writes the JSON, and returns the path of `<stem>.provenance.jsonl` beside it.

    Clips below the folder of the JSON are named relative to it, others by their absolute path.
    """
    items: list[dict[str, Any]] = []
    lines: list[str] = []
    for each in explained:
        item = _item(each, path.parent.resolve())
        items.append(item)
        source = {
            "video": item["video"],
            "dataset": each.record.dataset,
            "clip": each.record.prompt_id,
            "label": each.record.label,
            "labels": list(each.record.labels),
            **each.provenance,
        }
        lines.append(json.dumps(source, ensure_ascii=False))
    # the JSON last: a run that finds it also finds its provenance
    beside = path.with_suffix(".provenance.jsonl")
    atomic_write_text(beside, "".join(f"{line}\n" for line in lines))
    atomic_write_text(path, json.dumps(items, ensure_ascii=False, indent=1) + "\n")
    return beside


def _item(each: Explained, folder: Path) -> dict[str, Any]:
    clip = each.record.clip
    main = clip.video_path or clip.audio_path
    assert main is not None
    tags = ("<video>\n" if clip.video_path else "") + ("<audio>\n" if clip.audio_path else "")
    item: dict[str, Any] = {"video": _named(main, folder)}
    if clip.audio_path is not None and clip.audio_path != main:
        item["audio"] = _named(clip.audio_path, folder)
    item["conversations"] = [
        {"from": "human", "value": f"{tags}{QUESTION}"},
        {"from": "gpt", "value": each.response},
    ]
    return item


def _named(file: str, folder: Path) -> str:
    below = os.path.relpath(file, folder)
    return file if below.startswith("..") else below
