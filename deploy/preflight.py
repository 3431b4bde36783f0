"""Model, corpora and rewards, checked in seconds before any engine starts."""

import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config.data import R1OmniDataConfig
from common.config.run import OmniConfig
from common.datasets.r1_omni import load_r1_omni
from common.errors import ConfigError, DatasetError
from common.labels import TAXONOMIES
from common.models.registry import family_of
from common.questions import QUESTIONS
from common.types import Record
from reward.rubric import build_rubric

KEYS = {
    "train": "data.source",
    "cold_start": "data.cold_start",
    "validation": "data.validation",
    "heldout": "data.heldout",
}
"""Where each split is configured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpora:
    """The clips of a run, by what they are for."""

    train: list[Record]
    cold_start: list[Record]
    validation: list[Record]
    heldout: list[Record]
    sha256: str
    """Of everything that was read."""


def check_inputs(config: OmniConfig) -> dict[str, list[Record]]:
    """What can be known of model, corpora and rewards before anything is built.

    Returns:
        The clips of every JSON file that the run would read, by split.

    Raises:
        ConfigError: a reward of the user's cannot be called, or W&B is asked for and not installed.
        ModelError: the folder is missing, without weights or of another architecture.
        DatasetError: a corpus is missing or malformed, or not one of its media files is there.
    """
    if config.model.path is not None:
        family_of(Path(config.model.path).expanduser().resolve())
    build_rubric(config.reward)
    _require_wandb(config.run.wandb_project)
    found = {split: _read(source, config, split=split) for split, source in _files(config).items()}
    for split, records in found.items():
        if all(map(_is_missing, records)):
            raise DatasetError(
                f"{KEYS[split]} must have its media files, got none of {len(records)} clips, the first: "
                f"{_media(records[0])[0]}; set {KEYS[split]}.media_root or mend the paths"
            )
    return found


def missing_clips(found: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """A line for each split that lacks some of its media files."""
    for split, records in found.items():
        missing = [record for record in records if _is_missing(record)]
        if missing:
            yield (
                f"{len(missing)} of {len(records)} clips of {KEYS[split]} are missing, the first: "
                f"{_media(missing[0])[0]}"
            )


def _media(record: Record) -> list[str]:
    return [path for path in (record.clip.video_path, record.clip.audio_path) if path is not None]


def _is_missing(record: Record) -> bool:
    return not all(map(os.path.isfile, _media(record)))


def _require_wandb(project: str) -> None:
    # a folder of W&B's own files, also called wandb, is found as a package without an origin
    spec = importlib.util.find_spec("wandb") if project else None
    if project and (spec is None or spec.origin is None):
        raise ConfigError(
            f"run.wandb_project must be empty without wandb, got {project!r}; pip install 'omni-rlvr[wandb]' or "
            "drop the project"
        )


def _files(config: OmniConfig) -> dict[str, R1OmniDataConfig]:
    """The JSON files that the configured stages read, by split."""
    data = config.data
    chosen = {
        "train": data.source if isinstance(data.source, R1OmniDataConfig) else None,
        "cold_start": data.cold_start if config.sft.is_wanted else None,
        "validation": data.validation if config.evaluation.every_checkpoints else None,
        "heldout": data.heldout if config.evaluation.policies else None,
    }
    return {split: source for split, source in chosen.items() if source is not None}


def load_corpora(config: OmniConfig, folder: Path, *, on_clip: Callable[[int, int], None]) -> Corpora:
    """The clips; a synthetic corpus is written first.

    Raises:
        DatasetError: a corpus is missing, malformed or empty, or holds a label outside the taxonomy.
    """
    source, sources = config.data.source, _files(config)
    if isinstance(source, R1OmniDataConfig):
        sha256 = hashlib.sha256()
        for split in ("cold_start", "heldout", "train"):
            chosen = sources.get(split)
            sha256.update(Path(chosen.path).read_bytes() if chosen and Path(chosen.path).is_file() else b"")
        digest = sha256.hexdigest()
    else:
        from common.datasets.synthetic import corpus_folder, corpus_sha256, write_synthetic_corpus

        corpus = write_synthetic_corpus(corpus_folder(folder, source), source, on_clip=on_clip)
        for split in KEYS:
            file = corpus / f"{split}.json"
            if file.exists() and split not in sources:
                sources[split] = R1OmniDataConfig(type="r1_omni", path=str(file))
        digest = corpus_sha256(corpus)
    found = {split: _read(chosen, config, split=split) for split, chosen in sources.items()}
    return Corpora(
        train=found["train"],
        cold_start=found.get("cold_start", []),
        validation=found.get("validation", []),
        heldout=found.get("heldout", []),
        sha256=digest,
    )


def with_steps(config: OmniConfig, corpora: Corpora) -> OmniConfig:
    """The configuration with epochs turned into steps: so many that each clip is taken at least that often."""
    learner, sft = config.learner, config.sft
    if learner.epochs is not None:
        steps = math.ceil(learner.epochs * len(corpora.train) / learner.groups_per_step)
        learner = learner.model_copy(update={"steps": steps})
    if sft.epochs is not None:
        steps = math.ceil(sft.epochs * len(corpora.cold_start) / sft.examples_per_step)
        sft = sft.model_copy(update={"steps": steps})
    return config.model_copy(update={"learner": learner, "sft": sft})


def _read(source: R1OmniDataConfig, config: OmniConfig, *, split: str) -> list[Record]:
    return load_r1_omni(
        source.path,
        media_root=source.media_root,
        question=config.data.question or QUESTIONS[config.data.question_of],
        split=split,
        labels=TAXONOMIES[config.data.taxonomy],
    )


def resolve_model(config: OmniConfig, folder: Path) -> str:
    """The checkpoint's folder, checked; a tiny model is built where none is given.

    Raises:
        ModelError: the folder is missing, without weights or of another architecture.
    """
    if config.model.path is not None:
        path = str(Path(config.model.path).expanduser().resolve())
        family_of(path)
        return path
    # another tiny model is another folder: what is built once serves again only where it is the same
    chosen = f"{config.run.seed} {config.model.tiny.model_dump_json()}"
    target = folder / f"model-{hashlib.sha256(chosen.encode()).hexdigest()[:8]}"
    if not target.exists():
        # built aside: a folder that is there is whole
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        _build_tiny(partial, config)
        partial.rename(target)
    family_of(target)
    return str(target)


def _build_tiny(target: Path, config: OmniConfig) -> None:
    from common.datasets.expressions import EXPLANATIONS
    from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint

    tiny = config.model.tiny
    build_tiny_checkpoint(
        target,
        seed=config.run.seed,
        tied=tiny.tied,
        hidden_size=tiny.hidden_size,
        num_layers=tiny.num_layers,
        vocab_size=tiny.vocab_size,
        corpus=EXPLANATIONS,
    )
