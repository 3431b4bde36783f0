"""The policy's weights by their names in the checkpoint, for publishes and checkpoints.

`whole`, `gather`, `perturb` and `restore` are collectives of all ranks.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.models.noise import perturbed
from learner.zero.parameters import full_bytes, gathered, overwrite, storage_of


class WeightSource:
    """A policy whose parameters are the checkpoint's tensors; a subclass maps other parameters to them."""

    def __init__(self, policy: nn.Module) -> None:
        self._parameters = dict(policy.named_parameters())
        self._saved: dict[str, Tensor] = {}

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Parameters by checkpoint name, in the module's order, for sizes and dtypes."""
        return self._parameters

    def moves(self, name: str) -> bool:
        """True if training changes the tensor."""
        return self._parameters[name].requires_grad

    def num_bytes(self, name: str) -> int:
        return full_bytes(self._parameters[name])

    @contextmanager
    def whole(self, names: Sequence[str]) -> Generator[dict[str, Tensor]]:
        """Whole tensors on their device, read-only, until the block ends."""
        chosen = {name: self._parameters[name] for name in names}
        with gathered(list(chosen.values())):
            yield {name: parameter.detach() for name, parameter in chosen.items()}

    def gather(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole copies on the CPU."""
        with self.whole(names) as tensors:
            return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}

    def perturb(self, name: str, *, scale: float, nonce: int) -> None:
        """Mixes noise into one tensor until `restore`."""
        parameter = self._parameters[name]
        self._saved.setdefault(name, storage_of(parameter).clone())
        with torch.no_grad(), gathered([parameter], modify=True):
            parameter.copy_(perturbed(name, parameter, scale=scale, nonce=nonce))

    def restore(self, *, names: Sequence[str] | None = None) -> None:
        """Restores all perturbed tensors or some, bit for bit."""
        for name in list(self._saved) if names is None else names:
            overwrite(self._parameters[name], self._saved.pop(name))
