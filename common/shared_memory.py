"""Weights in shared memory: a fixed segment that holds one bucket of tensors at a time.

The layout is safetensors' but for gaps that align each tensor: eight bytes of header length, a JSON header,
the tensors' bytes. Files under /dev/shm instead of `multiprocessing.shared_memory`, whose resource tracker
unlinks a segment when any process that attached to it ends. The sender holds a lock on the file while it lives:
the kernel lets go of it however the sender ends, and in whatever PID namespace it is looked at from.
"""

import contextlib
import fcntl
import json
import mmap
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import blake3

from common.errors import ReceiveError
from common.types import TensorReceipt

if TYPE_CHECKING:
    import numpy as np
    import torch

SEGMENT_FOLDER = Path(os.environ.get("OMNI_RLVR_SEGMENTS", "/dev/shm"))
"""Memory that the processes of one node share; several nodes on one machine need a folder each."""
SEGMENT_PATTERN = re.compile(r"^omni-rlvr-\w+-\d+-[0-9a-f]{16}$")
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_NAMES = {v: k for k, v in _DTYPES.items()}
_ALIGNMENT = 64


class Segment:
    """One shared-memory file, allocated once by the sender and mapped by the receivers."""

    def __init__(self, path: Path, *, num_bytes: int | None = None) -> None:
        """Creates the file when `num_bytes` is given, and maps an existing one otherwise."""
        self.path = path
        self._lock: int | None = None
        self._pinned: torch.Tensor | None = None
        if num_bytes is not None:
            descriptor = self._lock = _create_locked(path)
            try:
                # fails now with ENOSPC where /dev/shm is full, not later with SIGBUS
                os.posix_fallocate(descriptor, 0, num_bytes)
                self._map = mmap.mmap(descriptor, 0)
            except (OSError, ValueError):
                path.unlink()
                os.close(descriptor)
                raise
            return
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)

    @property
    def num_bytes(self) -> int:
        return len(self._map)

    @property
    def num_used_bytes(self) -> int:
        """Bytes up to the end of the last tensor."""
        table, start = self._table()
        return start + max((entry["data_offsets"][1] for entry in table.values()), default=0)

    def pin(self) -> None:
        """Pins the memory if there is a GPU, for direct copies."""
        import torch

        from common.runtime.pinned_memory import pin

        memory = torch.frombuffer(self._map, dtype=torch.uint8)
        if pin(memory):
            self._pinned = memory

    def write(self, tensors: Mapping[str, "torch.Tensor"]) -> list[TensorReceipt]:
        """Writes the tensors as `put` does; returns their manifest."""
        self.put(tensors)
        return self.manifest()

    def put(self, tensors: Mapping[str, "torch.Tensor"]) -> None:
        """Replaces the tensors, which may be on any device; raises `ValueError` if they do not fit."""
        import torch

        header, start, end = _layout(tensors)
        if end > self.num_bytes:
            raise ValueError(f"segment {self.path.name} must hold {end} bytes, got {self.num_bytes}")
        self._map[0:8] = len(header).to_bytes(8, "little")
        self._map[8 : 8 + len(header)] = header
        table = json.loads(header)
        for name, tensor in tensors.items():
            first, last = (start + o for o in table[name]["data_offsets"])
            if first == last:
                continue
            source = tensor.detach().reshape(-1).view(torch.uint8)
            target = torch.frombuffer(self._map, dtype=torch.uint8, count=last - first, offset=first)
            target.copy_(source, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()

    def fill(self, data: "np.ndarray") -> None:
        """Copies the bytes of another segment, uint8 [n]."""
        self._map[0 : len(data)] = memoryview(cast(Any, data))

    def read(self) -> dict[str, "torch.Tensor"]:
        """The tensors as views of the shared memory: valid until the sender writes again."""
        import torch

        table, start = self._table()
        views: dict[str, torch.Tensor] = {}
        for name, entry in table.items():
            first, last = entry["data_offsets"]
            dtype = getattr(torch, _DTYPES[entry["dtype"]])
            count = (last - first) // dtype.itemsize
            if count == 0:
                views[name] = torch.empty(entry["shape"], dtype=dtype)
                continue
            flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=start + first)
            views[name] = flat.view(entry["shape"])
        return views

    def manifest(self) -> list[TensorReceipt]:
        """Name, shape, dtype and digest of every tensor in the segment, read from the memory itself."""
        import torch

        num_threads = torch.get_num_threads()
        table, start = self._table()
        with memoryview(self._map) as view:
            receipts: list[TensorReceipt] = []
            for name, entry in table.items():
                first, last = entry["data_offsets"]
                receipts.append(
                    TensorReceipt(
                        name=name,
                        shape=tuple(entry["shape"]),
                        dtype=_DTYPES[entry["dtype"]],
                        digest=_digest(view[start + first : start + last], num_threads),
                    )
                )
        return receipts

    def _table(self) -> tuple[dict[str, Any], int]:
        length = int.from_bytes(self._map[0:8], "little")
        return json.loads(self._map[8 : 8 + length]), 8 + length

    def close(self, *, unlink: bool = False) -> None:
        """Releases the mapping; the memory is freed with its last view."""
        if unlink:
            self.path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._pinned is not None:
            from common.runtime.pinned_memory import unpin

            unpin(self._pinned)
            self._pinned = None
        # never unmapped here: a view does not hold the mapping open, only alive
        del self._map


def segment_path(owner: str, index: int) -> Path:
    """A path that no other segment has or had."""
    return SEGMENT_FOLDER / f"omni-rlvr-{owner}-{index}-{secrets.token_hex(8)}"


def local_segment(path: str) -> Path:
    """A segment of this node; raises `ReceiveError` for another node's, which must be copied, not mapped."""
    if Path(path).parent != SEGMENT_FOLDER or not os.path.exists(path):
        raise ReceiveError(
            f"segment {path} must lie in {SEGMENT_FOLDER} of this node, and does not; weights of another node are "
            "copied by the node agents"
        )
    return Path(path)


def sweep_segments() -> list[Path]:
    """Removes segments that no process has locked; returns their paths."""
    removed: list[Path] = []
    for path in SEGMENT_FOLDER.glob("omni-rlvr-*"):
        if not SEGMENT_PATTERN.match(path.name):
            continue
        # another user's, who will sweep it; gone meanwhile; not a file of ours at all
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:  # or the name may be another file's by now
                    path.unlink()
                    removed.append(path)
            finally:
                os.close(descriptor)
    return removed


def _create_locked(path: Path) -> int:
    """A new file with this process's lock on it.

    A sweep between the two steps finds the file unlocked and removes it: then it is made again.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def receipt_of(name: str, tensor: "torch.Tensor") -> TensorReceipt:
    """The receipt of a tensor on the CPU, as `Segment.manifest` has it."""
    import torch

    data = memoryview(cast(Any, tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return TensorReceipt(
        name=name,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        digest=_digest(data, torch.get_num_threads()),
    )


def _digest(data: memoryview, num_threads: int) -> str:
    return blake3.blake3(data, max_threads=num_threads).hexdigest(length=8)


def _layout(tensors: Mapping[str, "torch.Tensor"]) -> tuple[bytes, int, int]:
    """Header bytes, offset of the data, and total bytes; data aligned for every dtype."""
    table: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _NAMES:
            raise ValueError(f"{name} must be one of {sorted(_NAMES)}, got {dtype}")
        size = tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size + (-size) % _ALIGNMENT
    header = json.dumps(table).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    return header, 8 + len(header), 8 + len(header) + offset
