"""Checkpoints: written aside, described by a manifest, renamed into place; a torn one is passed over by name.

checkpoints/step_000120/hf/           a checkpoint that transformers and vLLM load
                        optimizer/    AdamW's moments by parameter name, and the engine's counts
                        state.json    where the run stood
                        manifest.json every file's size and digest

checkpoints/best.json names the one with the highest UAR on the validation clips, which is kept.
`step_N.partial` is being written, or was when the run died; `step_N.torn` was passed over.
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
    """Where a run stands after a step."""

    step: int
    """Steps trained."""
    policy_version: int
    """Publishes so far."""
    cursor: int
    """New draws taken from the stream."""
    outstanding: tuple[tuple[int, int], ...] = ()
    """(position, draw) of those that had no fate yet: they are asked again."""
    ledger_bytes: int
    """Length of the ledger."""
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Digests of what the run is made from: its corpus, its reference."""
    layout: Mapping[str, int] = field(default_factory=dict[str, int])
    """Settings that change no more than the last bits of sums, such as the number of ranks, by their keys."""


START = RunState(step=0, policy_version=0, cursor=0, ledger_bytes=0)


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def begin(target: Path) -> Path:
    """An empty folder beside the target, to be written and then given to `finish`."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    return partial


def finish(partial: Path, target: Path) -> None:
    """Describes what was written, makes it durable, and puts it in place whole.

    What has the target's name is removed first: only one that was passed over ever has.
    """
    files = {
        str(path.relative_to(partial)): {"size": path.stat().st_size, "blake3": _digest(path)}
        for path in sorted(partial.rglob("*"))
        if path.is_file()
    }
    (partial / MANIFEST).write_text(json.dumps(files, indent=1) + "\n")
    for path in partial.rglob("*"):
        sync(path)
    sync(partial)
    if target.exists():
        shutil.rmtree(target)
    os.rename(partial, target)
    sync(target.parent)


def fault_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None where every file is as its manifest says."""
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
    """A run's checkpoints, newest first; whole or not."""
    return sorted((p for p in (run / "checkpoints").glob("step_*") if p.suffix == ""), reverse=True)


def newest_whole(run: Path) -> Path | None:
    """The newest checkpoint that is as it was written; what is passed over is named in the log."""
    for folder in checkpoints(run):
        fault = fault_of(folder)
        if fault is None:
            return folder
        logger.warning("passed over the checkpoint %s: %s", folder, fault)
    return None


def clear_after(run: Path, step: int) -> None:
    """Sets aside what claims to be of a later step, which was passed over, and removes what was never finished."""
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
    """For `state.json`."""
    return json.dumps(asdict(state), indent=1) + "\n"


def read_state(folder: Path) -> RunState:
    """Of a whole checkpoint."""
    values = json.loads((folder / "state.json").read_text())
    outstanding = tuple((int(position), int(draw)) for position, draw in values.pop("outstanding"))
    return RunState(outstanding=outstanding, **values)


def version_of(model: Path) -> int:
    """The policy version of a model's folder: its checkpoint's; 0 where no run has written it as one."""
    is_checkpoint = model.name == "hf" and (model.parent / "state.json").is_file()
    return read_state(model.parent).policy_version if is_checkpoint else 0


def prune(run: Path, *, keep: int) -> None:
    """Removes all but the newest, and the best."""
    best = read_best(run)
    for folder in checkpoints(run)[keep:]:
        if best is None or _step_of(folder) != best.step:
            shutil.rmtree(folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best of the checkpoints that were evaluated on the validation clips."""

    step: int
    war: float
    """Decides between equal UARs."""
    uar: float
    """By which it is the best: the commonest classes alone cannot raise it."""


def read_best(run: Path) -> Best | None:
    """What `note_best` wrote; None where nothing was evaluated."""
    path = run / "checkpoints" / BEST
    return Best(**json.loads(path.read_text())) if path.exists() else None


def note_best(run: Path, evaluated: Best) -> None:
    """Takes a evaluated checkpoint as the best, unless another one was better; of equals the later."""
    before = read_best(run)
    if before is None or (evaluated.uar, evaluated.war) >= (before.uar, before.war):
        atomic_write_text(run / "checkpoints" / BEST, json.dumps(asdict(evaluated)) + "\n")


def digest_of(folder: Path) -> str:
    """Of a model's files: what its manifest says of them, or else the files themselves."""
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
