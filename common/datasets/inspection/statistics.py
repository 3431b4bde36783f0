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

SPLITS = ("all", "train", "cold_start", "validation", "test", "heldout")
WANTED = frozenset({"song", "calm", "not-sampled", "not-a-clip"})
"""Reasons of what is left out because the configuration asks for it, or because it is no clip."""
ALLOWED = frozenset({frozenset({"train", "cold_start"}), *(frozenset({s}) for s in SPLITS)})
"""Splits that may share clips: what is explained first may be trained on again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A problem that would stop or impair a run."""

    split: str
    clip_id: str
    """Empty where it is no clip's."""
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
    """Clips by split as the corpus' paper has them; empty where it has none."""
    num_unlisted: int | None
    """Clips on disk that no list names; None where not all lists were read."""
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
    source = _whole(source)
    train = read_corpus(source, split="train", taxonomy=taxonomy)
    singles = source.sources if isinstance(source, MixDataConfig) else (source,)
    has_share = all(single.validation_share for single in singles)
    if not train.parts:
        if not has_share:
            return {"all": train}
        return {"train": train, "validation": read_corpus(source, split="validation", taxonomy=taxonomy)}
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
    problems: list[Problem] = []
    seconds: dict[str, float] = {}
    contents: dict[str, list[Facts]] = {}
    for split, corpus in splits.items():
        facts = list(
            check_clips([r.clip for r in corpus.records], limits, num_workers=num_workers, on_clip=on_clip)
        )
        named = list(zip(corpus.records, facts, strict=True))
        problems += [
            Problem(split=split, clip_id=r.prompt_id, reason=f.reason, detail=f.detail)
            for r, f in named
            if f.reason is not None
        ]
        seconds[split] = sum(f.seconds for f in facts if f.reason is None)
        contents[split] = facts
    problems += _left_out(splits)
    everything = dict.fromkeys(d for corpus in splits.values() for d in corpus.dropped)
    records = {split: corpus.records for split, corpus in splits.items()}
    return Inspection(
        splits=records,
        dropped=tuple(everything),
        seconds=seconds,
        without_sound={
            split: sum(f.lacks_track and f.reason is None for f in facts) for split, facts in contents.items()
        },
        problems=tuple(problems),
        overlaps=tuple(_overlaps(records, contents)),
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
            # of one id is reported by that alone
            if frozenset({split, other_split}) not in ALLOWED and (by == "id" or _key(other) != _key(first))
        ]
    return overlaps


def _key(record: Record) -> str:
    return f"{record.dataset}/{record.prompt_id}"
