"""Pinned host memory, which a GPU copies without an intermediate buffer."""

import logging
import mmap
from typing import Any, cast

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def pinned(num_bytes: int) -> Tensor:
    """New page-aligned memory, uint8 [num_bytes]; pinned if there is a GPU."""
    memory = torch.frombuffer(mmap.mmap(-1, max(1, num_bytes)), dtype=torch.uint8)
    pin(memory)
    return memory[:num_bytes]


def pin(memory: Tensor) -> bool:
    """Locks page-aligned memory; returns False if that is impossible, as without a GPU."""
    if not torch.cuda.is_available():
        return False
    code = int(_runtime().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    if code:
        logger.warning(
            "%d bytes of host memory are not pinned: CUDA error %d; copies take longer", memory.nbytes, code
        )
    return not code


def unpin(memory: Tensor) -> None:
    """Undoes `pin` if it returned True."""
    _runtime().cudaHostUnregister(memory.data_ptr())


def _runtime() -> Any:
    return cast(Any, torch.cuda).cudart()
