"""Where a publish and a checkpoint take the policy's weights from, by their names in the checkpoint.

Names, sizes and what moves are known at once; `gather`, `perturb` and `restore` are collectives of all ranks.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from learner.zero.frozen_and_noise import perturbed
from learner.zero.parameters import full_bytes, gathered, overwrite, storage_of


class WeightSource(Protocol):
    """The policy's weights as its checkpoint has them, whatever training made of its modules."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """By checkpoint name, in the module's order; what sizes and dtypes are read from."""
        ...

    def moves(self, name: str) -> bool:
        """Whether training changes what `gather` gives for this name."""
        ...

    def num_bytes(self, name: str) -> int:
        """Of the whole tensor, partitioned or not."""
        ...

    def whole(self, names: Sequence[str]) -> AbstractContextManager[dict[str, Tensor]]:
        """Whole tensors where they are, not to be written to, until the block ends."""
        ...

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole copies on the CPU, over on all ranks when it returns."""
        ...

    def perturb(self, name: str, *, scale: float, nonce: int) -> None:
        """Mixes noise into one tensor until `restore`."""
        ...

    def restore(self, *, names: Sequence[str] | None = None) -> None:
        """Puts the perturbed tensors back, bit for bit: all of them, or these."""
        ...


class PlainSource:
    """A policy whose parameters are the checkpoint's tensors."""

    def __init__(self, policy: nn.Module) -> None:
        self._parameters = dict(policy.named_parameters())
        self._saved: dict[str, Tensor] = {}

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._parameters

    def moves(self, name: str) -> bool:
        return self._parameters[name].requires_grad

    def num_bytes(self, name: str) -> int:
        return full_bytes(self._parameters[name])

    @contextmanager
    def whole(self, names: Sequence[str]) -> Generator[dict[str, Tensor]]:
        chosen = {name: self._parameters[name] for name in names}
        with gathered(list(chosen.values())):
            yield {name: parameter.detach() for name, parameter in chosen.items()}

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        with self.whole(names) as tensors:
            return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}

    def perturb(self, name: str, *, scale: float, nonce: int) -> None:
        parameter = self._parameters[name]
        self._saved.setdefault(name, storage_of(parameter).clone())
        with torch.no_grad(), gathered([parameter], modify=True):
            parameter.copy_(perturbed(name, parameter, scale=scale, nonce=nonce))

    def restore(self, *, names: Sequence[str] | None = None) -> None:
        for name in list(self._saved) if names is None else names:
            overwrite(self._parameters[name], self._saved.pop(name))
