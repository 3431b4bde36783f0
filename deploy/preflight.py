"""What is checked in seconds, before any engine starts."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from common.config.data import R1OmniDataConfig
from common.config.load import dump_config
from common.config.run import OmniConfig
from common.datasets.r1_omni import load_r1_omni
from common.errors import ConfigError
from common.labels import TAXONOMIES
from common.models.registry import family_of
from common.types import Record
from reward.rubric import build_rubric

RESULTS = (
    "config.yaml",
    "metrics.jsonl",
    "ledger.jsonl",
    "samples",
    "cold_start",
    "checkpoints",
    "eval",
    "tensorboard",
    "summary.json",
)
CHANGEABLE = ("run.resume", "run.start_deadline_s", "run.wandb_project", "learner.checkpoint", "evaluation")
"""Keys that a resumed run may be given anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpora:
    """The clips of a run, by what they are for."""

    train: list[Record]
    cold_start: list[Record]
    heldout: list[Record]
    sha256: str
    """Of everything that was read."""


def make_run_folder(config: OmniConfig) -> Path:
    """Makes the run's folder, readable by its owner alone: it holds people's faces.

    Raises:
        ConfigError: it cannot be written.
    """
    folder = config.run.folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"run.root must be writable, got {config.run.root!r}: {error.strerror}; choose another folder"
        ) from error
    return folder


@contextmanager
def hold_run_folder(folder: Path) -> Generator[None]:
    """Keeps other runs out of a folder while the block, or the process, lasts.

    Raises:
        ConfigError: another run holds it.
    """
    file = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise ConfigError(
            f"run.name must be free, got {folder.name!r} where a run is going on; choose another name"
        ) from None
    try:
        yield
    finally:
        os.close(file)


def take_up(folder: Path, config: OmniConfig) -> None:
    """Prepares to go on with what an earlier attempt left, or to start anew, and records the configuration.

    Raises:
        ConfigError: they were made with other settings.
    """
    if config.run.resume == "never":
        set_results_aside(folder)
    path = folder / "config.yaml"
    if path.exists():
        changed = _changed_keys(yaml.safe_load(path.read_text()), yaml.safe_load(dump_config(config)))
        if changed:
            raise ConfigError(
                f"a resumed run must keep its settings, got other values of {', '.join(changed)} than in {path}; "
                "set them back, choose another run.name, or start anew with --run.resume never"
            )
    partial = path.with_suffix(".partial")
    partial.write_text(dump_config(config))
    partial.rename(path)
    (folder / "samples").mkdir(mode=0o700, exist_ok=True)


def _changed_keys(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    changed: list[str] = []
    for name in sorted({*before, *after}):
        key = f"{prefix}{name}"
        if key in CHANGEABLE or before.get(name) == after.get(name):
            continue
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _changed_keys(cast(dict[str, Any], old), cast(dict[str, Any], new), f"{key}.")
        else:
            changed.append(key)
    return changed


def set_results_aside(folder: Path) -> Path | None:
    """Moves what an earlier run of this name left into `earlier/<n>`: its model and corpus serve again.

    Returns:
        Where the results went; None where there were none.
    """
    found = [folder / name for name in RESULTS if (folder / name).exists()]
    if not found:
        return None
    earlier = folder / "earlier"
    earlier.mkdir(mode=0o700, exist_ok=True)
    target = earlier / str(1 + max((int(p.name) for p in earlier.iterdir() if p.name.isdigit()), default=0))
    target.mkdir(mode=0o700)
    for path in found:
        path.rename(target / path.name)
    return target


def check_inputs(config: OmniConfig) -> None:
    """What can be known of model and corpora before anything is built.

    Raises:
        ModelError: the folder is missing, without weights or of another architecture.
        DatasetError: a corpus is missing or malformed.
    """
    if config.model.path is not None:
        family_of(Path(config.model.path).expanduser().resolve())
    build_rubric(config.reward)
    for source in (config.data.source, config.data.cold_start, config.data.heldout):
        if isinstance(source, R1OmniDataConfig):
            _read(source, config, split="")


def load_corpora(config: OmniConfig, folder: Path, *, on_clip: Callable[[int, int], None]) -> Corpora:
    """The clips; a synthetic corpus is written first.

    Raises:
        DatasetError: a corpus is missing, malformed or empty, or holds a label outside the taxonomy.
    """
    source = config.data.source
    sources: dict[str, R1OmniDataConfig | None] = {
        "cold_start": config.data.cold_start if config.sft.steps else None,
        "heldout": config.data.heldout if config.evaluation.policies else None,
    }
    if isinstance(source, R1OmniDataConfig):
        sources["train"] = source
        sha256 = hashlib.sha256()
        for chosen in sources.values():
            sha256.update(Path(chosen.path).read_bytes() if chosen and Path(chosen.path).is_file() else b"")
        digest = sha256.hexdigest()
    else:
        from common.datasets.synthetic import corpus_folder, corpus_sha256, write_synthetic_corpus

        corpus = write_synthetic_corpus(corpus_folder(folder, source), source, on_clip=on_clip)
        for split in ("train", "cold_start", "heldout"):
            file = corpus / f"{split}.json"
            if file.exists() and not sources.get(split):
                sources[split] = R1OmniDataConfig(type="r1_omni", path=str(file))
        digest = corpus_sha256(corpus)
    found = {split: _read(chosen, config, split=split) if chosen else [] for split, chosen in sources.items()}
    return Corpora(
        train=found["train"],
        cold_start=found.get("cold_start", []),
        heldout=found.get("heldout", []),
        sha256=digest,
    )


def _read(source: R1OmniDataConfig, config: OmniConfig, *, split: str) -> list[Record]:
    return load_r1_omni(
        source.path,
        media_root=source.media_root,
        question=config.data.question,
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
