"""The folder of a run: created, locked against other runs, resumed, or set aside."""

import fcntl
import os
from collections.abc import Generator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from common.config.load import dump_config, load_config
from common.config.run import OmniConfig
from common.config.tree import changeable_keys
from common.config.values import format_value
from common.errors import ConfigError
from common.runtime.atomic_files import atomic_write_text

RESULTS = (
    "metrics.jsonl",
    "ledger.jsonl",
    "events.jsonl",
    "attempts.jsonl",
    "publish_failures.jsonl",
    "samples",
    "sft",
    "cold_start",
    "checkpoints",
    "eval",
    "tensorboard",
    "summary.json",
    "wandb_id",
    "wandb",
    "config.yaml",
)
"""Files to set aside for a start from scratch. The settings move last: without them any run could resume."""
REMEDY = "set back what differs, choose another run.name, or start from scratch with --run.resume never"


def make_run_folder(config: OmniConfig) -> Path:
    """Makes the run's folder, which only its owner can read: it holds people's faces. Raises `ConfigError`."""
    folder = config.run.folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise _not_writable(config, f"{error.strerror}") from error
    return folder


def check_run_folder(config: OmniConfig) -> str:
    """Checks the folder of a run without writing, and returns a line on what a run would do with it.

    Raises:
        ConfigError: it is not writable, another run holds it, or it has other settings.
    """
    folder = config.run.folder
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise _not_writable(config, f"{nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _not_writable(config, f"{nearest} may not be written to")
    lock = folder / ".lock"
    if lock.exists():
        with lock.open() as file:
            _lock(file.fileno(), fcntl.LOCK_SH, folder)
    if config.run.resume == "never":
        has_earlier = any((folder / name).exists() for name in RESULTS)
        return f"{folder}, {'earlier results are set aside' if has_earlier else 'new'}"
    require_same_settings(folder, config)
    return f"{folder}, {'resumes from earlier results' if has_results(folder) else 'no results yet'}"


@contextmanager
def hold_run_folder(folder: Path) -> Generator[None]:
    """Locks a folder against other runs until the block or the process ends; raises `ConfigError` if locked."""
    file = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        _lock(file, fcntl.LOCK_EX, folder)
        yield
    finally:
        os.close(file)


def has_results(folder: Path) -> bool:
    """True if a stage or a step was finished; the files of an attempt before that are void."""
    metrics = folder / "metrics.jsonl"
    return (
        (folder / "cold_start").is_dir()
        or _has_steps(folder / "sft")
        or _has_steps(folder)
        or any((folder / "eval").glob("*.json"))
        or (metrics.exists() and metrics.stat().st_size > 0)
    )


def require_same_settings(folder: Path, config: OmniConfig) -> None:
    """Raises `ConfigError` if a setting that changes results differs from that of the run's earlier attempt."""
    path = folder / "config.yaml"
    if not path.exists() or not has_results(folder):
        return
    before = _read(path)
    trees = (settings.model_dump(mode="json") for settings in (before, config))
    changed = _changes(*trees, changeable=changeable_keys(OmniConfig))
    if changed:
        raise ConfigError(
            f"a resumed run must keep its settings, got other values than in {path} ({'; '.join(changed)}); "
            f"{REMEDY}"
        )
    old, new = before.learner, config.learner
    # another last step changes the learning rates of steps already taken
    if _has_steps(folder) and new.optimizer.schedule != "constant" and old.steps != new.steps:
        raise ConfigError(
            f"learner.steps may be raised only with a constant schedule, got {old.steps} before, {new.steps} now "
            f"with learner.optimizer.schedule={new.optimizer.schedule}; {REMEDY}"
        )


def take_up(folder: Path, config: OmniConfig) -> None:
    """Prepares to resume an earlier attempt or to start from scratch, and records the configuration.

    Raises:
        ConfigError: the earlier results have other settings.
    """
    if config.run.resume == "never":
        set_results_aside(folder)
    require_same_settings(folder, config)
    atomic_write_text(folder / "config.yaml", dump_config(config))
    (folder / "samples").mkdir(mode=0o700, exist_ok=True)


def set_results_aside(folder: Path) -> Path | None:
    """Moves results of an earlier run, without model and corpus, to `earlier/<n>`, and returns that folder."""
    results = [folder / name for name in RESULTS if (folder / name).exists()]
    if not results:
        return None
    earlier = folder / "earlier"
    earlier.mkdir(mode=0o700, exist_ok=True)
    target = earlier / str(1 + max((int(p.name) for p in earlier.iterdir() if p.name.isdigit()), default=0))
    target.mkdir(mode=0o700)
    for path in results:
        path.rename(target / path.name)
    return target


def _has_steps(folder: Path) -> bool:
    return any(path.suffix == "" for path in (folder / "checkpoints").glob("step_*"))


def _read(path: Path) -> OmniConfig:
    """The settings of an earlier attempt, with defaults for settings that an older version lacked."""
    try:
        return load_config(str(path), [])
    except ConfigError as error:
        raise ConfigError(
            f"a resumed run's configuration must be valid, got {path}: {error}; correct it, or start from "
            "scratch with --run.resume never"
        ) from error


def _changes(before: dict[str, Any], now: dict[str, Any], *, changeable: Set[str], prefix: str = "") -> list[str]:
    """Every setting that differs, with both values; for two types of a variant the types alone."""
    changed: list[str] = []
    names = ["type"] if before.get("type") != now.get("type") else sorted({*before, *now})
    for name in names:
        key, old, new = f"{prefix}{name}", before.get(name), now.get(name)
        if key in changeable or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            sections = cast(dict[str, Any], old), cast(dict[str, Any], new)
            changed += _changes(*sections, changeable=changeable, prefix=f"{key}.")
        else:
            changed.append(f"{key}: {format_value(old)} before, {format_value(new)} now")
    return changed


def _lock(file: int, how: int, folder: Path) -> None:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"run.name must be free, got {folder.name!r}, whose folder another run holds; choose another name"
        ) from None


def _not_writable(config: OmniConfig, why: str) -> ConfigError:
    return ConfigError(f"run.root must be writable, got {config.run.root!r}: {why}; choose another folder")
