"""What log-probabilities cost above the model, all logits at once and a chunk at a time."""

from functools import partial

import torch
from torch import Tensor, nn

from common.models.limits import MAX_LOGITS
from common.models.token_logprobs import token_logprobs
from tests.gpu.section import Figures, Section, figure

VOCABULARY, WIDTH = 151_936, 2048
ROWS = (8, 32)


def logits(section: Section) -> None:
    """Forward and backward from final hidden states to log-probabilities and back; the head trains."""
    vocabulary, width = (VOCABULARY, WIDTH) if section.is_cuda else (VOCABULARY // 50, WIDTH // 16)
    num_tokens = section.subject.completion_tokens
    head = nn.Linear(width, vocabulary, bias=False, device=section.device, dtype=torch.bfloat16)
    figures: Figures = {}
    limits = {"whole": 10**12, "chunked": MAX_LOGITS if section.is_cuda else 2 * vocabulary}
    for rows in ROWS:
        hidden = torch.randn(rows, num_tokens, width, device=section.device, dtype=torch.bfloat16)
        hidden.requires_grad_()
        targets = torch.randint(vocabulary, (rows, num_tokens), device=section.device)
        kept: dict[str, int] = {}
        for how, limit in limits.items():
            work = partial(_forward_and_backward, head, hidden, targets, limit)
            key = f"{how}_{rows}"
            try:
                work()
                with section.peak() as memory:
                    figures[f"{key}_s"] = figure(f"{rows} rows, {how}: time", section.seconds(work), "s")
            except torch.OutOfMemoryError:
                figures[f"{key}_failed"] = figure(f"{rows} rows, {how}: ran out of memory", 1)
                continue
            kept[how] = memory["peak"] - memory["before"]
            if section.is_cuda:
                figures[f"{key}_bytes"] = figure(f"{rows} rows, {how}: memory without the model", kept[how], "B")
        if section.is_cuda and len(kept) == len(limits):
            figures[f"share_{rows}"] = figure(
                f"{rows} rows: memory, chunked / whole", kept["chunked"] / kept["whole"]
            )
    conditions = (
        f"forward and backward pass of the output head in bfloat16; {num_tokens} tokens per row, vocabulary of "
        f"{vocabulary:,}, hidden size {width:,}; whole: all logits at once, chunked: a chunk of logits at a time"
    )
    section.save("logits", conditions, figures)


def _forward_and_backward(head: nn.Linear, hidden: Tensor, targets: Tensor, max_logits: int) -> None:
    head.zero_grad()
    logprobs, _ = token_logprobs(head, hidden, targets, temperature=1.0, max_logits=max_logits)
    logprobs.sum().backward()
