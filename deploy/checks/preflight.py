"""Model, corpora and rewards, checked in seconds before any engine starts."""

import hashlib
import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config.corpora import AnyCorpusConfig, R1OmniDataConfig
from common.config.data import SyntheticDataConfig
from common.config.questions import QUESTIONS
from common.config.reward import BuiltinRewardConfig
from common.config.run import OmniConfig
from common.datasets.corpus import Corpus
from common.datasets.reader import read_corpus
from common.errors import ConfigError, DatasetError
from common.evaluation.controls import asked_in_groups
from common.labels import TAXONOMIES
from common.models.registry import family_of
from common.types import Record
from reward.validation import check_rewards, needs_engines

KEYS = {
    "train": "data.source",
    "cold_start": "data.cold_start",
    "validation": "data.validation",
    "heldout": "data.heldout",
}
"""Configuration key of each split."""
TRAINED = frozenset({"train", "cold_start"})
"""Splits that a policy learns from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpora:
    """The clips of a run, by stage."""

    train: list[Record]
    cold_start: list[Record]
    validation: list[Record]
    heldout: list[Record]
    sha256: str
    """SHA-256 of the records of training and evaluation."""
    left_out: tuple[str, ...] = ()
    """A line for each reason why a split lacks clips of its corpus, or evaluates clips that are trained on."""


def check_inputs(config: OmniConfig) -> dict[str, Corpus]:
    """Checks model, corpora and rewards before anything starts; returns the corpora of files by split.

    Raises:
        ConfigError: a reward cannot be used, or W&B is requested and not installed.
        ModelError: the folder is missing, has no weights, or has an unknown architecture.
        DatasetError: a corpus is missing or malformed, none of its media exist, or a control cannot be applied.
    """
    if config.model.path is not None:
        family_of(Path(config.model.path).expanduser().resolve())
    check_rewards(config.reward, has_engines=True)
    _require_wandb(config.run.wandb_project)
    corpora = _read_files(config)
    for split, corpus in corpora.items():
        if all(map(_is_missing, corpus.records)):
            raise DatasetError(
                f"{KEYS[split]} must have its media files, got none of {len(corpus.records)} clips, the first: "
                f"{_media(corpus.records[0])[0]}; set {KEYS[split]}.media_root or correct the paths"
            )
    if "heldout" in corpora:
        _require_askable(corpora["heldout"].records, config)
    if "train" in corpora:
        _require_donors(corpora["train"].records, config)
    return corpora


def left_out(corpora: Mapping[str, Corpus]) -> Iterator[str]:
    """A line for each reason why a split lacks clips, or evaluates clips that are trained on."""
    for split, corpus in corpora.items():
        for reason, count in Counter(dropped.reason for dropped in corpus.dropped).items():
            first = next(dropped for dropped in corpus.dropped if dropped.reason == reason)
            yield f"{count} clips of {KEYS[split]} are left out as {reason}, the first: {first.detail}"
    trained = {clip for split in TRAINED if split in corpora for clip in map(_media, corpora[split].records)}
    for split, corpus in corpora.items():
        shared = [record.prompt_id for record in corpus.records if _media(record) in trained]
        if shared and split not in TRAINED:
            yield f"{len(shared)} clips of {KEYS[split]} are trained on, too, the first: {shared[0]!r}"


def _require_askable(heldout: Sequence[Record], config: OmniConfig) -> None:
    # a mistake in a control is reported before the run, not at its end
    for control in config.evaluation.controls:
        asked_in_groups(heldout, control, classes=TAXONOMIES[config.data.taxonomy])


def _require_donors(train: Sequence[Record], config: OmniConfig) -> None:
    # a reward that swaps sounds would fail on every group if all clips had one label
    labels = {record.label for record in train if record.clip.audio_path is not None}
    for entry in config.reward.rewards:
        if not isinstance(entry, BuiltinRewardConfig) or not needs_engines(entry):
            continue
        if entry.options.get("without") == "audio_swapped" and len(labels) < 2:
            raise ConfigError(
                f"reward.rewards {entry.name}.options.without must be audio_swapped only where clips of two labels "
                f"have a sound, got {', '.join(sorted(labels)) or 'none'} in data.source; take audio_muted"
            )


def missing_clips(corpora: Mapping[str, Corpus]) -> Iterator[str]:
    """A line for each split that lacks media files."""
    for split, corpus in corpora.items():
        missing = [record for record in corpus.records if _is_missing(record)]
        if missing:
            yield (
                f"{len(missing)} of {len(corpus.records)} clips of {KEYS[split]} are missing, the first: "
                f"{_media(missing[0])[0]}"
            )


def _media(record: Record) -> tuple[str, ...]:
    return tuple(path for path in (record.clip.video_path, record.clip.audio_path) if path is not None)


def _is_missing(record: Record) -> bool:
    return not all(map(os.path.exists, _media(record)))


def _require_wandb(project: str) -> None:
    # a folder of W&B's own files, also called wandb, is found as a package without an origin
    spec = importlib.util.find_spec("wandb") if project else None
    if project and (spec is None or spec.origin is None):
        raise ConfigError(
            f"run.wandb_project must be empty without wandb, got {project!r}; pip install 'omni-rlvr[wandb]' or "
            "drop the project"
        )


def _read_files(config: OmniConfig) -> dict[str, Corpus]:
    """The corpora that the configured stages read, by split, without a synthetic corpus."""
    data = config.data
    sources = {
        "train": None if isinstance(data.source, SyntheticDataConfig) else data.source,
        "cold_start": data.cold_start if config.sft.is_wanted else None,
        "validation": data.validation if config.evaluation.every_checkpoints else None,
        "heldout": data.heldout if config.evaluation.policies else None,
    }
    return {split: _read(source, config, split=split) for split, source in sources.items() if source is not None}


def load_corpora(
    config: OmniConfig,
    folder: Path,
    *,
    on_clip: Callable[[int, int], None],
    read: Mapping[str, Corpus] | None = None,
) -> Corpora:
    """Loads the clips, and first writes a synthetic corpus into the run's folder; `read` are corpora already read.

    Raises:
        DatasetError: a corpus is missing, malformed or empty, has a label outside the taxonomy, or a control cannot
            be applied.
    """
    corpora, digest, source = dict(_read_files(config) if read is None else read), None, config.data.source
    if isinstance(source, SyntheticDataConfig):
        from common.datasets.synthetic.corpus import corpus_folder, corpus_sha256, write_synthetic_corpus

        written = write_synthetic_corpus(corpus_folder(folder, source), source, on_clip=on_clip)
        for split in KEYS:
            file = written / f"{split}.json"
            if file.exists() and split not in corpora:
                corpora[split] = _read(R1OmniDataConfig(type="r1_omni", path=str(file)), config, split=split)
        digest = corpus_sha256(written)
    records = {split: list(corpora[split].records) if split in corpora else [] for split in KEYS}
    _require_askable(records["heldout"], config)
    if digest is None:
        contents = (corpora[split].content() for split in ("cold_start", "heldout", "train") if split in corpora)
        digest = hashlib.sha256(b"".join(contents)).hexdigest()
    return Corpora(**records, sha256=digest, left_out=tuple(left_out(corpora)))


def with_steps(config: OmniConfig, corpora: Corpora) -> OmniConfig:
    """The configuration with epochs converted to steps, rounded up."""
    learner, sft = config.learner, config.sft
    if learner.epochs is not None:
        steps = math.ceil(learner.epochs * len(corpora.train) / learner.groups_per_step)
        learner = learner.model_copy(update={"steps": steps})
    if sft.epochs is not None:
        steps = math.ceil(sft.epochs * len(corpora.cold_start) / sft.examples_per_step)
        sft = sft.model_copy(update={"steps": steps})
    return config.model_copy(update={"learner": learner, "sft": sft})


def heldout_clips(config: OmniConfig) -> list[Record]:
    """The held-out clips of a corpus of files; raises `DatasetError`."""
    assert config.data.heldout is not None
    return list(_read(config.data.heldout, config, split="heldout").records)


def _read(source: AnyCorpusConfig, config: OmniConfig, *, split: str) -> Corpus:
    data = config.data
    # only GRPO's question has a wording for clips without picture or sound: the reader chooses it
    question = data.question or (None if data.question_of == "grpo" else QUESTIONS[data.question_of])
    return read_corpus(
        source,
        split=split,
        question=question,
        taxonomy=data.taxonomy,
        shows_transcripts=data.show_transcripts,
    )


def resolve_model(config: OmniConfig, folder: Path) -> str:
    """The checked folder of the checkpoint; a tiny model is built if none is configured. Raises `ModelError`."""
    if config.model.path is not None:
        target = Path(config.model.path).expanduser().resolve()
    else:
        # the name depends on the settings: an existing folder holds the same model
        settings = f"{config.run.seed} {config.model.tiny.model_dump_json()}"
        target = folder / f"model-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        if not target.exists():
            _build_tiny(target, config)
    family_of(target)
    return str(target)


def _build_tiny(target: Path, config: OmniConfig) -> None:
    from common.datasets.synthetic.expressions import EXPLANATIONS
    from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint

    # the final name appears last, so that an existing folder is complete
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    build_tiny_checkpoint(partial, seed=config.run.seed, corpus=EXPLANATIONS, **config.model.tiny.model_dump())
    partial.rename(target)
