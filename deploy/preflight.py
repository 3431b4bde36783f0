"""What is checked in seconds, before any engine starts."""

import fcntl
import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from common.config.run import OmniConfig, TinyModelConfig
from common.datasets.r1_omni import QUESTION, load_r1_omni
from common.errors import ConfigError
from common.models.registry import family_of
from common.types import Record

RESULTS = ("config.yaml", "metrics.jsonl", "ledger.jsonl", "samples")


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
    """What can be known of model and corpus before anything is built.

    Raises:
        ModelError: the folder is missing, without weights or of another architecture.
        DatasetError: the corpus is missing, malformed, or none of its first clips is there.
    """
    if config.model.path is not None:
        family_of(Path(config.model.path).expanduser().resolve())
    source = config.data.source
    if source.type == "r1_omni":
        load_r1_omni(source.path, media_root=source.media_root, question=config.data.question, split="train")


def load_records(config: OmniConfig, folder: Path) -> list[Record]:
    """The corpus; a synthetic one is written first.

    Raises:
        DatasetError: it is missing, malformed or empty.
    """
    source, question = config.data.source, config.data.question
    if source.type == "r1_omni":
        return load_r1_omni(source.path, media_root=source.media_root, question=question, split="train")
    from common.datasets.synthetic import write_synthetic_corpus

    corpus = folder / "corpus" / f"seed-{source.seed}-clips-{source.num_clips}"
    index = write_synthetic_corpus(corpus, num_clips=source.num_clips, seed=source.seed)
    return load_r1_omni(index, media_root=None, question=question, split="train")


def resolve_model(config: OmniConfig, folder: Path) -> str:
    """The checkpoint's folder, checked; a tiny model is built where none is given.

    Raises:
        ModelError: the folder is missing, without weights or of another architecture.
    """
    if config.model.path is None:
        # another tiny model is another folder: what is built once serves again only where it is the same
        chosen = hashlib.sha256(config.model.tiny.model_dump_json().encode()).hexdigest()[:8]
        target = folder / f"model-{chosen}"
        if not target.exists():
            # built aside: a folder that is there is whole
            partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
            _build_tiny(partial, config.model.tiny)
            partial.rename(target)
        path = str(target)
    else:
        path = str(Path(config.model.path).expanduser().resolve())
    family_of(path)
    return path


def _build_tiny(target: Path, tiny: TinyModelConfig) -> None:
    from common.models.qwen2_5_omni.habit import teach_habit
    from common.models.qwen2_5_omni.tiny import EMOTIONS, build_tiny_checkpoint

    build_tiny_checkpoint(
        target,
        seed=tiny.seed,
        tied=tiny.tied,
        hidden_size=tiny.hidden_size,
        num_layers=tiny.num_layers,
        vocab_size=tiny.vocab_size,
    )
    if tiny.habit_steps:
        teach_habit(target, question=QUESTION, labels=EMOTIONS, steps=tiny.habit_steps, seed=tiny.seed)
