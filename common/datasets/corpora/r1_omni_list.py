"""Several files of R1-Omni's JSON in its YAML list, with a sampling strategy each.

`all`, `first:N`, `end:N` and `random:N` select as many records, `N%` that share, rounded up (R1-Omni, `finetune`
scripts).
"""

import math
import random
import re
from pathlib import Path
from typing import Any, cast

import yaml

from common.config.corpora import R1OmniListDataConfig
from common.datasets.corpora.r1_omni import load_r1_omni
from common.datasets.corpus import Corpus, Dropped, require_unique
from common.datasets.files.tables import read_text, resolved
from common.errors import DatasetError
from common.types import Record

STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


def load_r1_omni_list(config: R1OmniListDataConfig, *, split: str) -> Corpus:
    """The sampled records of every file, in order; the others are dropped as `not-sampled`.

    Raises:
        DatasetError: a file is missing or malformed, or a strategy is unknown.
    """
    path = resolved(config.path)
    records: list[Record] = []
    dropped: list[Dropped] = []
    files = [str(path)]
    for index, (json_path, strategy) in enumerate(_entries(path)):
        file = resolved(path.parent / Path(json_path).expanduser())
        corpus = load_r1_omni(file, media_root=config.media_root, question=None, split=split)
        seed, place = f"{config.sampling_seed}/{index}", f"{path}: entry {index}"
        positions = sampled(len(corpus), strategy, seed=seed, place=place)
        records += [corpus[position] for position in positions]
        dropped += [
            Dropped(clip_id=corpus[n].prompt_id, reason="not-sampled", detail=f"{path}: {strategy} of {json_path}")
            for n in sorted({*range(len(corpus))} - {*positions})
        ]
        files.append(str(file))
    require_unique(((str(path), r.prompt_id) for r in records), remedy="take it from one of the files")
    return Corpus(records=tuple(records), dropped=tuple(dropped), files=tuple(files))


def sampled(count: int, strategy: str, *, seed: str, place: str) -> list[int]:
    """Positions of a strategy, in order: `all`, or `first`, `end` or `random` with a number or a share.

    Raises:
        DatasetError: the strategy is unknown, or selects nothing or more than `count`.
    """
    if strategy == "all":
        return list(range(count))
    match = STRATEGY.fullmatch(strategy)
    amount = float(match[2]) if match else 0.0
    is_share = bool(match and match[3])
    size = math.ceil(count * amount / 100 - 1e-9) if is_share else int(amount)
    if match is None or size < 1 or (is_share and amount > 100) or (not is_share and amount != size):
        raise DatasetError(
            f"{place}: sampling_strategy must be all, or first, end or random with :N or :P%, got "
            f"{strategy!r}; correct it"
        )
    if size > count:
        raise DatasetError(
            f"{place}: sampling_strategy must take at most the {count} records of the file, got {strategy!r}; "
            "lower it or write all"
        )
    if match[1] == "random":
        return sorted(random.Random(seed).sample(range(count), size))
    return list(range(size)) if match[1] == "first" else list(range(count - size, count))


def _entries(path: Path) -> list[tuple[str, str]]:
    try:
        tree: Any = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DatasetError(
            f"{path}: a list must be YAML, got {' '.join(str(error).split())}; correct it"
        ) from error
    items: Any = cast(dict[str, Any], tree).get("datasets") if isinstance(tree, dict) else None
    if not isinstance(items, list) or not items:
        raise DatasetError(
            f"{path}: a list must hold datasets: [{{json_path, sampling_strategy}}], got none; add them"
        )
    entries: list[tuple[str, str]] = []
    for index, item in enumerate(cast(list[Any], items)):
        fields = cast(dict[str, Any], item) if isinstance(item, dict) else {}
        json_path = fields.get("json_path")
        if not isinstance(json_path, str) or not json_path:
            raise DatasetError(f"{path}: entry {index} must have a json_path, got {item!r}; add it")
        entries.append((json_path, str(fields.get("sampling_strategy", "all"))))
    return entries
