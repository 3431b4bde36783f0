"""Log-probabilities of target tokens after a model's head, without the logits of all tokens at once."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn


def token_logprobs(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, temperature: float, max_logits: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and the entropy of the distribution over all tokens.

    A plain linear head computes more than `max_logits` logits in chunks of tokens, and again in the backward pass.

    Args:
        hidden: [N, C, H]
        targets: int64 [N, C]
        temperature: divides the logits.

    Returns:
        logprobs float32 [N, C], and entropy float32 [N, C] without gradient.
    """
    linear = cast(Any, head)
    if (
        type(head) is not nn.Linear
        or linear.bias is not None
        or targets.numel() * int(linear.out_features) <= max_logits
    ):
        return _of_logits(head(hidden), targets, temperature)
    size = max(1, max_logits // int(linear.out_features))

    def chunked(hidden: Tensor) -> Any:
        return cast(Any, _Chunked).apply(hidden, linear.weight, targets.reshape(-1), temperature, size)

    # the head is called once in both cases, as hooks of ZeRO-3 expect
    linear.forward, before = chunked, linear.forward
    try:
        logprobs, entropy = linear(hidden.reshape(-1, hidden.shape[-1]))
    finally:
        linear.forward = before
    return logprobs.view(targets.shape), entropy.view(targets.shape)


def _of_logits(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy


class _Chunked(torch.autograd.Function):
    # the backward pass computes the logits again

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, size: int) -> Any:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.size = temperature, size
        chunks = [
            _of_logits(hidden[part] @ weight.T, targets[part], temperature) for part in _parts(len(targets), size)
        ]
        logprobs, entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, weight, targets = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # float32: bfloat16 would lose chunks below 1/256 of the sum
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for part in _parts(len(targets), ctx.size):
            logits = (hidden[part] @ weight.T).float() / ctx.temperature
            grad = grads[0][part].unsqueeze(-1)
            # the gradient of log p(target): 1 at the target, minus the probabilities
            slope = torch.softmax(logits, dim=-1).mul_(-grad)
            slope.scatter_add_(-1, targets[part].unsqueeze(-1), grad)
            slope = slope.div_(ctx.temperature).to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = slope @ weight
            if grad_weight is not None:
                grad_weight += slope.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _parts(length: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, length, size))
