"""The frozen reference: what it is asked for, and where its weights are meanwhile."""

import torch
from torch import Tensor, nn

from learner.training.reference import OwnReference


class Doubling(nn.Module):
    """Log-probabilities that are twice a weight; notes where weight and buffer were."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0]))
        self.register_buffer("offset", torch.tensor([1.0]))
        self.seen: list[int] = []

    def forward(self, tokens: object, *, temperature: float) -> tuple[Tensor, None]:
        self.seen += places(self)
        return 2 * self.weight / temperature, None


def places(policy: Doubling) -> list[int]:
    """Addresses of weight and buffer."""
    return [policy.weight.data_ptr(), policy.get_buffer("offset").data_ptr()]


class CopiedReference(OwnReference):
    """A device of its own in the same memory."""

    def _on_device(self, host: Tensor) -> Tensor:
        return host.clone()


def test_an_offloaded_reference_is_on_its_device_only_while_it_is_asked() -> None:
    policy = Doubling()
    host = places(policy)
    reference = CopiedReference(policy, device=torch.device("cpu"), is_offloaded=True)
    assert places(policy) == host
    with reference.ready():
        assert float(reference(object(), temperature=1.0)) == 6.0  # pyright: ignore[reportArgumentType]
    assert not set(policy.seen) & set(host)
    assert (places(policy), float(policy.weight)) == (host, 3.0)


def test_a_resident_reference_stays_and_has_no_gradient() -> None:
    policy = Doubling().train()
    reference = OwnReference(policy, device=torch.device("cpu"), is_offloaded=False)
    with reference.ready():
        logprobs = reference(object(), temperature=2.0)  # pyright: ignore[reportArgumentType]
    assert (float(logprobs), logprobs.requires_grad, policy.training) == (3.0, False, False)
