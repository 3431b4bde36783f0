"""The frozen policy that the KL is taken to: what it is, and where it waits between two uses."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from common.models.tokens import TokenBatch


class Reference(Protocol):
    """Log-probabilities of the policy as it was when the run began."""

    needs_every_rank: bool
    """Whether asking it is a collective, so that ranks without work must ask too."""

    def ready(self) -> AbstractContextManager[None]:
        """Where it may be asked; whole batches at a time."""
        ...

    def __call__(self, tokens: TokenBatch, *, temperature: float) -> Tensor:
        """float32 [N, C], without gradient."""
        ...


class OwnReference:
    """A second model, whole on every rank whatever DeepSpeed partitions of the first."""

    needs_every_rank = False

    def __init__(self, policy: nn.Module, *, device: torch.device, is_offloaded: bool) -> None:
        """Takes over a model on the host; an offloaded one waits there, and is copied to the device when asked."""
        policy.requires_grad_(False).eval()
        self._device = device
        self._policy = policy if is_offloaded else policy.to(device)

    @contextmanager
    def ready(self) -> Generator[None]:
        """Copies an offloaded model to its device, and drops the copies afterwards."""
        tensors = [*chain(self._policy.parameters(), self._policy.buffers())]
        waiting = [t.data for t in tensors]
        try:
            for tensor in tensors:
                tensor.data = self._on_device(tensor.data)
            yield
        finally:
            for tensor, host in zip(tensors, waiting, strict=True):
                tensor.data = host

    def __call__(self, tokens: TokenBatch, *, temperature: float) -> Tensor:
        with torch.no_grad():
            return self._policy(tokens, temperature=temperature)[0]

    def _on_device(self, host: Tensor) -> Tensor:
        return host.to(self._device, non_blocking=True)
