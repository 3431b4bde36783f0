"""Statistics of a corpus before a run: counts, lengths, left-out clips, problems, overlaps."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.config.corpora import AnyCorpusConfig, DfewDataConfig, MafwDataConfig, MixDataConfig
from common.config.data import DataConfig
from common.datasets.corpora.dfew import FOLD_SIZES as DFEW_SIZES
from common.datasets.corpora.mafw import fold_sizes
from common.datasets.corpus import Corpus, Dropped
from common.datasets.inspection.media_check import CheckLimits, Facts, check_clips
from common.datasets.reader import read_corpus
from common.types import Record

WANTED = frozenset({"song", "calm", "not-sampled", "not-a-clip"})
"""Reasons of dropped clips that are no problem: the configuration excludes them, or they are no clips."""
SHARED = {"train", "cold_start"}
"""Splits that may have the same clips."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A problem that would stop or impair a run."""

    split: str
    clip_id: str
    """Empty if the problem is not of a clip."""
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """The same clip in two splits."""

    by: str
    """`id` or `content`."""
    splits: tuple[str, str]
    clip_ids: tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    splits: Mapping[str, Sequence[Record]]
    dropped: tuple[Dropped, ...]
    seconds: Mapping[str, float]
    """Seconds of usable clips by split; 0.0 if no file was opened."""
    problems: tuple[Problem, ...]
    overlaps: tuple[Overlap, ...]
    without_sound: Mapping[str, int]
    """Clips by split that have no sound track and are used without sound."""
    published: Mapping[str, int]
    """Numbers of clips by split in the corpus's paper; empty if it has none."""
    num_unlisted: int | None
    """Number of clips on the disk that are in no list; None if not all lists were read."""
    files: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        return not self.problems and not self.overlaps

    def as_json(self) -> dict[str, Any]:
        """One object: `counts`, `dropped`, `overlap` and the lists behind them."""
        labels = {split: Counter(record.label for record in records) for split, records in self.splits.items()}
        return {
            "counts": {
                "total": sum(map(len, self.splits.values())),
                **{split: dict(sorted(counts.items())) for split, counts in labels.items()},
            },
            "published": dict(self.published),
            "unlisted": self.num_unlisted,
            "modalities": {split: dict(Counter(map(modality_of, r))) for split, r in self.splits.items()},
            "asked_without_sound": dict(self.without_sound),
            "seconds": {split: round(seconds, 2) for split, seconds in self.seconds.items()},
            "dropped": dict(Counter(dropped.reason for dropped in self.dropped)),
            "media": dict(Counter(problem.reason for problem in self.problems)),
            "overlap": len(self.overlaps),
            "problems": [
                {"split": p.split, "clip": p.clip_id, "reason": p.reason, "detail": p.detail} for p in self.problems
            ],
            "overlaps": [{"by": o.by, "splits": o.splits, "clips": o.clip_ids} for o in self.overlaps],
            "files": list(self.files),
        }


def modality_of(record: Record) -> str:
    if record.clip.audio_path is None:
        return "video"
    return "audio" if record.clip.video_path is None else "both"


def read_splits(source: AnyCorpusConfig, *, taxonomy: str) -> dict[str, Corpus]:
    """Reads every part of a corpus, or `all` if it has no parts; raises `DatasetError`."""
    # the configured part would hide the others
    source = _whole(source)
    train = read_corpus(source, split="train", taxonomy=taxonomy)
    singles = source.sources if isinstance(source, MixDataConfig) else (source,)
    has_share = all(single.validation_share for single in singles)
    if not train.parts and not has_share:
        return {"all": train}
    splits = {"train": train}
    if "validation" in train.parts or has_share:
        splits["validation"] = read_corpus(source, split="validation", taxonomy=taxonomy)
    if "test" in train.parts:
        splits["test"] = read_corpus(source, split="heldout", taxonomy=taxonomy)
    return splits


def read_stages(data: DataConfig) -> dict[str, Corpus]:
    """Reads every corpus of files in a run's configuration, by its stage; raises `DatasetError`."""
    stages = {
        "train": data.source,
        "cold_start": data.cold_start,
        "validation": data.validation,
        "heldout": data.heldout,
    }
    return {
        split: read_corpus(source, split=split, taxonomy=data.taxonomy)
        for split, source in stages.items()
        if source is not None and source.type != "synthetic"
    }


def unlisted(splits: Mapping[str, Corpus]) -> int | None:
    """Number of clips on the disk that are in no list; None for a corpus without lists."""
    listed = {clip_id for corpus in splits.values() for clip_id in corpus.listed}
    on_disk = {clip_id for corpus in splits.values() for clip_id in corpus.on_disk}
    return len(on_disk - listed) if listed else None


def inspect(
    splits: Mapping[str, Corpus],
    *,
    limits: CheckLimits,
    num_workers: int,
    on_clip: Callable[[], None],
    published: Mapping[str, int],
    num_unlisted: int | None,
) -> Inspection:
    """Inspects every clip; `on_clip` is called after each."""
    records = {split: corpus.records for split, corpus in splits.items()}
    facts = {
        split: list(check_clips([r.clip for r in members], limits, num_workers=num_workers, on_clip=on_clip))
        for split, members in records.items()
    }
    problems = [
        Problem(split=split, clip_id=record.prompt_id, reason=fact.reason, detail=fact.detail)
        for split, members in records.items()
        for record, fact in zip(members, facts[split], strict=True)
        if fact.reason is not None
    ]
    usable = {split: [fact for fact in each if fact.reason is None] for split, each in facts.items()}
    return Inspection(
        splits=records,
        dropped=tuple(dict.fromkeys(d for corpus in splits.values() for d in corpus.dropped)),
        seconds={split: sum(fact.seconds for fact in each) for split, each in usable.items()},
        without_sound={split: sum(fact.lacks_track for fact in each) for split, each in usable.items()},
        problems=(*problems, *_left_out(splits)),
        overlaps=tuple(_overlaps(records, facts)),
        published=published,
        num_unlisted=num_unlisted,
        files=tuple(dict.fromkeys(file for corpus in splits.values() for file in corpus.files)),
    )


def published_sizes(source: AnyCorpusConfig) -> dict[str, int]:
    """Numbers of training and test clips by the corpus's paper; empty if it has none."""
    sizes: tuple[int, int] | None = None
    if isinstance(source, DfewDataConfig):
        sizes = DFEW_SIZES[source.fold]
    elif isinstance(source, MafwDataConfig):
        sizes = fold_sizes(source)
    return {} if sizes is None else {"train": sizes[0], "test": sizes[1]}


def _whole(source: AnyCorpusConfig) -> AnyCorpusConfig:
    if isinstance(source, MixDataConfig):
        return source.model_copy(
            update={"sources": tuple(s.model_copy(update={"part": None}) for s in source.sources)}
        )
    return source.model_copy(update={"part": None})


def _left_out(splits: Mapping[str, Corpus]) -> Iterator[Problem]:
    # a reason that all parts of a corpus share is listed once
    listed: set[Dropped | str] = set()
    for split, corpus in splits.items():
        for dropped in corpus.dropped:
            if dropped.reason not in WANTED and dropped not in listed:
                yield Problem(split=split, clip_id=dropped.clip_id, reason=dropped.reason, detail=dropped.detail)
        for line in corpus.short_lists:
            if line not in listed:
                yield Problem(split=split, clip_id="", reason="list-shorter-than-published", detail=line)
        listed.update(corpus.dropped, corpus.short_lists)


def _overlaps(records: Mapping[str, Sequence[Record]], facts: Mapping[str, Sequence[Facts]]) -> list[Overlap]:
    """Pairs of clips in two splits, by id and, if files were opened, by content."""
    seen: dict[tuple[str, str], list[tuple[str, Record]]] = defaultdict(list)
    for split, members in records.items():
        for record, fact in zip(members, facts[split], strict=True):
            seen["id", _key(record)].append((split, record))
            if fact.content:
                seen["content", fact.content].append((split, record))
    overlaps: list[Overlap] = []
    for (by, _), places in seen.items():
        (split, first), *others = places
        overlaps += [
            Overlap(by=by, splits=(split, other_split), clip_ids=(first.prompt_id, other.prompt_id))
            for other_split, other in others
            if split != other_split and {split, other_split} != SHARED
            # an overlap by id is not repeated as one by content
            if by == "id" or _key(other) != _key(first)
        ]
    return overlaps


def _key(record: Record) -> str:
    return f"{record.dataset}/{record.prompt_id}"
