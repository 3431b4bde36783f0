"""Log-probabilities a chunk at a time against those of all logits at once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.models.token_logprobs import token_logprobs

VOCABULARY, WIDTH = 50, 16


def computed(head: nn.Module, hidden: Tensor, targets: Tensor, *, max_logits: int) -> dict[str, Tensor]:
    """Both answers, and the gradients of a loss that weighs every token differently."""
    hidden = hidden.clone().requires_grad_()
    head.zero_grad()
    logprobs, entropy = token_logprobs(head, hidden, targets, temperature=0.7, max_logits=max_logits)
    (logprobs * torch.linspace(-1, 2, targets.numel()).view(targets.shape)).sum().backward()
    assert not entropy.requires_grad
    grads = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    assert hidden.grad is not None
    return {"logprobs": logprobs.detach(), "entropy": entropy, "hidden": hidden.grad, **grads}


@pytest.mark.parametrize("max_logits", [1, 3 * VOCABULARY, 7 * VOCABULARY + 49])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_chunks_give_the_values_and_gradients_of_all_logits_at_once(max_logits: int, is_frozen: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False).double().requires_grad_(not is_frozen)
    hidden, targets = torch.randn(3, 5, WIDTH).double(), torch.randint(VOCABULARY, (3, 5))
    whole = computed(head, hidden, targets, max_logits=10**9)
    chunked = computed(head, hidden, targets, max_logits=max_logits)
    assert chunked.keys() == whole.keys()
    assert ("weight" in whole) != is_frozen
    for name, value in whole.items():
        # both are float32 behind the head
        torch.testing.assert_close(chunked[name].float(), value.float(), rtol=1e-5, atol=1e-6)


def test_the_head_is_called_once_and_never_gives_more_logits_than_allowed(monkeypatch: Any) -> None:
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    calls, sizes = list[str](), list[int]()

    def count(*_: object) -> None:
        calls.append("call")

    head.register_forward_hook(count)
    log_softmax = torch.log_softmax

    def recorded(logits: Tensor, **options: Any) -> Tensor:
        sizes.append(logits.numel())
        return log_softmax(logits, **options)

    monkeypatch.setattr(torch, "log_softmax", recorded)
    token_logprobs(
        head, torch.randn(4, 6, WIDTH), torch.zeros(4, 6, dtype=torch.long), temperature=1.0, max_logits=500
    )
    assert calls == ["call"]
    assert max(sizes) == 500
    assert sum(sizes) == 24 * VOCABULARY
