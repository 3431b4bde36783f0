"""The frozen policy of the KL term, and its place between two uses."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from common.models.tokens import TokenBatch


class Reference(Protocol):
    """Log-probabilities of the policy at the start of the run."""

    needs_every_rank: bool
    """True if a call is a collective, which ranks without work must make too."""

    def ready(self) -> AbstractContextManager[None]:
        """The context of its calls, for whole batches."""
        ...

    def __call__(self, tokens: TokenBatch, *, temperature: float) -> Tensor: ...


class OwnReference:
    """A second model, whole on every rank even if DeepSpeed partitions the first."""

    needs_every_rank = False

    def __init__(self, policy: nn.Module, *, device: torch.device, is_offloaded: bool) -> None:
        """Takes a model on the host; an offloaded model stays there, and is copied to the device for each use."""
        policy.requires_grad_(False).eval()
        self._device = device
        self._policy = policy if is_offloaded else policy.to(device)

    @contextmanager
    def ready(self) -> Generator[None]:
        tensors = [*chain(self._policy.parameters(), self._policy.buffers())]
        host_data = [t.data for t in tensors]
        try:
            for tensor in tensors:
                tensor.data = self._on_device(tensor.data)
            yield
        finally:
            for tensor, host in zip(tensors, host_data, strict=True):
                tensor.data = host

    def __call__(self, tokens: TokenBatch, *, temperature: float) -> Tensor:
        with torch.no_grad():
            return self._policy(tokens, temperature=temperature)[0]

    def _on_device(self, host: Tensor) -> Tensor:
        return host.to(self._device, non_blocking=True)
