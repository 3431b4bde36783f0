"""One rank's share of an optimizer step: as many passes as the others, over the denominators of the whole batch."""

from collections.abc import Sequence

import torch

from learner.training.batch import MicroBatch, TrainGroup, empty_micro_batch, micro_batches
from learner.training.loss import Denominators
from learner.training.process_group import ProcessGroup


def micro_batches_of_rank(
    groups: Sequence[TrainGroup],
    *,
    ranks: ProcessGroup,
    max_rows: int,
    max_tokens: int,
    longest: int,
    pad_token_id: int,
) -> tuple[list[MicroBatch], Denominators]:
    """This rank's passes, filled up with empty ones to as many as the busiest rank makes; a collective.

    Args:
        groups: this rank's; may be empty.
        ranks: the process group.
        max_rows: most completions of a pass.
        max_tokens: most tokens of a pass.
        longest: most tokens of a completion, the constant of Dr.GRPO's aggregation.
        pad_token_id: what fills a row.

    Returns:
        The passes, and what the whole batch is divided by, over all ranks.
    """
    batches = micro_batches(
        groups, max_rows=max_rows, max_tokens=max_tokens, pad_token_id=pad_token_id, device=ranks.device
    )
    sums = torch.tensor(
        [sum(len(b.advantages) for b in batches), sum(b.tokens.num_tokens for b in batches)], dtype=torch.float64
    )
    most = torch.tensor([len(batches)])
    ranks.all_reduce(sums)
    ranks.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    if most == 0:
        raise ValueError("a batch must hold a group, got none on any rank")
    while len(batches) < int(most):
        batches.append(empty_micro_batch(pad_token_id=pad_token_id, device=ranks.device))
    return batches, Denominators(num_sequences=float(sums[0]), num_tokens=float(sums[1]), max_tokens=float(longest))
