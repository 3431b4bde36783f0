"""One rank's passes of an optimizer step: as many as on the other ranks, with denominators of the whole batch."""

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
    """A rank's passes, and the denominators over all ranks; a collective.

    Empty passes are added up to the number of the busiest rank. `groups` may be empty; `longest` is the most tokens
    of a completion.
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
