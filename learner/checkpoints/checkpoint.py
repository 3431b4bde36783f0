"""Checkpoints: written aside, described by a manifest, renamed into place.

    checkpoints/step_000120/hf/           a model folder for transformers and vLLM
                            optimizer/    AdamW's moments by parameter name, and the engine's counts
                            state.json    the run's position
                            manifest.json every file's size and digest

checkpoints/best.json names the checkpoint with the highest UAR on the validation clips, which is never removed.
`step_N.partial` is unfinished, `step_N.torn` damaged.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import blake3

from common.runtime.atomic_files import atomic_write_text, sync

logger = logging.getLogger(__name__)
MANIFEST, BEST = "manifest.json", "best.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """A run's position after a step."""

    step: int
    """Steps trained."""
    policy_version: int
    """Publishes so far."""
    cursor: int
    """New draws taken from the stream."""
    outstanding: tuple[tuple[int, int], ...] = ()
    """(position, draw) of draws without a fate, which are requested again."""
    ledger_bytes: int
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Digests of the run's corpus and reference."""
    layout: Mapping[str, int] = field(default_factory=dict[str, int])
    """Settings that change the last bits of sums, such as the number of ranks, by key."""


START = RunState(step=0, policy_version=0, cursor=0, ledger_bytes=0)


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def begin(target: Path) -> Path:
    """Makes an empty folder beside the target, for `finish`."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    return partial


def finish(partial: Path, target: Path) -> None:
    """Writes the manifest, makes all files durable, and renames the folder to its target."""
    files = {
        str(path.relative_to(partial)): {"size": path.stat().st_size, "blake3": _digest(path)}
        for path in sorted(partial.rglob("*"))
        if path.is_file()
    }
    (partial / MANIFEST).write_text(json.dumps(files, indent=1) + "\n")
    for path in partial.rglob("*"):
        sync(path)
    sync(partial)
    # only a damaged checkpoint can be there
    if target.exists():
        shutil.rmtree(target)
    os.rename(partial, target)
    sync(target.parent)


def fault_of(folder: Path) -> str | None:
    """The first difference between a checkpoint and its manifest, or None."""
    try:
        files: dict[str, dict[str, int | str]] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"{MANIFEST}: {error}"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes, not {expected['size']}"
        if _digest(path) != expected["blake3"]:
            return f"{name} holds other bytes than were written"
    return None


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, newest first, damaged ones included."""
    return sorted((p for p in (run / "checkpoints").glob("step_*") if p.suffix == ""), reverse=True)


def newest_whole(run: Path) -> Path | None:
    """The newest undamaged checkpoint; the log names newer ones."""
    for folder in checkpoints(run):
        fault = fault_of(folder)
        if fault is None:
            return folder
        logger.warning("skipped the damaged checkpoint %s: %s", folder, fault)
    return None


def clear_after(run: Path, step: int) -> None:
    """Renames checkpoints of later steps to `.torn`, and removes unfinished ones."""
    for folder in checkpoints(run):
        if _step_of(folder) > step:
            aside = folder.with_name(f"{folder.name}.torn")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
    for folder in (run / "checkpoints").glob("step_*.partial"):
        shutil.rmtree(folder)
    best = read_best(run)
    if best is not None and best.step > step:
        (run / "checkpoints" / BEST).unlink()


def state_text(state: RunState) -> str:
    """The text of `state.json`."""
    return json.dumps(asdict(state), indent=1) + "\n"


def read_state(folder: Path) -> RunState:
    values = json.loads((folder / "state.json").read_text())
    outstanding = tuple((int(position), int(draw)) for position, draw in values.pop("outstanding"))
    return RunState(outstanding=outstanding, **values)


def version_of(model: Path) -> int:
    """The policy version of a model folder: its checkpoint's, or 0 outside a checkpoint."""
    is_checkpoint = model.name == "hf" and (model.parent / "state.json").is_file()
    return read_state(model.parent).policy_version if is_checkpoint else 0


def prune(run: Path, *, keep: int, in_use: int | None = None) -> None:
    """Removes all checkpoints but the newest, the best, and that of the step `in_use`."""
    best = read_best(run)
    kept = {in_use, None if best is None else best.step}
    for folder in checkpoints(run)[keep:]:
        if _step_of(folder) not in kept:
            shutil.rmtree(folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best of the checkpoints evaluated on the validation clips, by UAR and then WAR."""

    step: int
    war: float
    uar: float


def read_best(run: Path) -> Best | None:
    """The checkpoint that `note_best` wrote, or None."""
    path = run / "checkpoints" / BEST
    return Best(**json.loads(path.read_text())) if path.exists() else None


def note_best(run: Path, evaluated: Best) -> None:
    """Makes an evaluated checkpoint the best, unless another is better; a later one wins a tie."""
    before = read_best(run)
    if before is None or (evaluated.uar, evaluated.war) >= (before.uar, before.war):
        atomic_write_text(run / "checkpoints" / BEST, json.dumps(asdict(evaluated)) + "\n")


def digest_of(folder: Path) -> str:
    """A model folder's digest: of its checkpoint's manifest, or else of its files."""
    manifest = folder.parent / MANIFEST
    if folder.name == "hf" and manifest.is_file():
        return _digest(manifest)
    digest = blake3.blake3()
    for path in [*sorted(folder.glob("*.safetensors")), folder / "config.json"]:
        digest.update(f"{path.name} {_digest(path)}\n".encode())
    return digest.hexdigest(length=16)


def _step_of(folder: Path) -> int:
    return int(folder.name.split("_")[1])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest: Any = hashlib.file_digest(file, cast(Any, blake3.blake3))
    return digest.hexdigest(length=16)
