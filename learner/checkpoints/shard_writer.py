"""A rank's share of a checkpoint: copied to host memory while all ranks wait, written by a thread while they train.

The rank whose thread ends last puts the checkpoint in place.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from common.errors import CheckpointError
from common.runtime.pinned_memory import pinned
from learner.checkpoints import checkpoint

_ALIGNMENT = 64
_WRITTEN = ".written-"


class HostCopies:
    """Copies in host memory; from a GPU into pinned memory, used again as new pages cost more than copies."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def of(self, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Contiguous copies, valid until the key is used again."""
        if not any(tensor.is_cuda for tensor in tensors.values()):
            return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        sizes = [t.nbytes + -t.nbytes % _ALIGNMENT for t in tensors.values()]
        memory = self._memory.get(key)
        if memory is None or len(memory) != sum(sizes):
            memory = self._memory[key] = pinned(sum(sizes))
        copies: dict[str, Tensor] = {}
        for (name, tensor), place in zip(tensors.items(), torch.split(memory, sizes), strict=True):
            copies[name] = place[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copies[name].copy_(tensor.detach(), non_blocking=True)
        torch.cuda.synchronize()
        return copies


class ShardWriter:
    """Writes one checkpoint at a time, in a thread; a failed write is a `CheckpointError` of the next call."""

    def __init__(self, *, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def begin(self, folder: Path, target: Path, write: Callable[[], None]) -> None:
        """Begins to write this rank's share of a folder, which becomes the target when all ranks have written."""
        self.wait()
        self._writing = self._pool.submit(self._write, folder, target, write)

    def check(self) -> None:
        """Raises the error of a write that has failed, without waiting."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits until this rank's share is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, folder: Path, target: Path, write: Callable[[], None]) -> None:
        try:
            write()
            (folder / f"{_WRITTEN}{self._rank}").touch()
            if self._is_last(folder):
                checkpoint.finish(folder, target)
        except OSError as error:
            raise CheckpointError(
                f"a checkpoint must be written, got {error.strerror or error} at {folder} on rank {self._rank}; "
                "make room on that disk"
            ) from error

    def _is_last(self, folder: Path) -> bool:
        """True in one rank, when all have written; the marks are gone then."""
        try:
            marks = sorted(folder.glob(f"{_WRITTEN}*"))
            if len(marks) < self._world_size:
                return False
            # several ranks may see all marks: the one that removes the first finishes
            marks[0].unlink()
        except FileNotFoundError:
            # another rank finishes, and may have renamed the folder
            return False
        for mark in marks[1:]:
            mark.unlink()
        return True


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of safetensors files, read on access."""

    def __init__(self, *paths: Path) -> None:
        self._files: list[Any] = [safe_open(path, framework="pt") for path in paths]
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 - no mapping

    def __getitem__(self, name: str) -> Tensor:
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)
