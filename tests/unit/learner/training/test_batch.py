"""Groups cut into shares and passes: nothing lost, nothing twice, nothing out of place."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.training.batch import (
    MicroBatch,
    TrainGroup,
    empty_micro_batch,
    micro_batches,
    split_groups,
    token_cost,
    train_group,
)
from tests.support.builders import make_group, text_prompt

PAD = 0


def train_groups(shapes: list[list[int]]) -> list[TrainGroup]:
    """Groups whose completions have these lengths; every token, log-probability and advantage is its own."""
    groups: list[TrainGroup] = []
    token = 100
    for g, lengths in enumerate(shapes):
        ids: list[tuple[int, ...]] = []
        for length in lengths:
            ids.append(tuple(range(token, token + length)))
            token += length
        groups.append(
            TrainGroup(
                prompt=text_prompt([1 + g] * (1 + g % 3)),
                token_ids=tuple(ids),
                rollout_logprobs=tuple(tuple(-t / 4096 for t in row) for row in ids),
                advantages=tuple(float(row[0]) for row in ids),
            )
        )
    return groups


def cut(groups: list[TrainGroup], *, max_rows: int = 99, max_tokens: int = 9999) -> list[MicroBatch]:
    """Micro-batches on the CPU."""
    return micro_batches(groups, max_rows=max_rows, max_tokens=max_tokens, pad_token_id=PAD, device="cpu")


def tokens_of(batch: MicroBatch) -> int:
    """Padding counted."""
    return batch.tokens.prompt_ids.numel() + batch.tokens.targets.numel()


def rows_of(batch: MicroBatch) -> list[tuple[tuple[int, ...], list[int], list[float], float]]:
    """Each row as (prompt, completion, rollout_logprobs, advantage), read back from the padded tensors."""
    rows: list[tuple[tuple[int, ...], list[int], list[float], float]] = []
    for row in range(len(batch.advantages)):
        length = int(batch.tokens.mask[row].sum())
        prompt = batch.tokens.prompts[int(batch.tokens.prompt_of_row[row])].prompt_token_ids
        logprobs = batch.rollout_logprobs[row, :length].tolist()
        rows.append((prompt, batch.tokens.targets[row, :length].tolist(), logprobs, float(batch.advantages[row])))
    return rows


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 6))
def test_each_group_goes_to_one_rank(costs: list[int], num_ranks: int) -> None:
    shares = split_groups(costs, num_ranks)
    assert len(shares) == num_ranks
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(1, 6))
def test_loads_differ_by_no_more_than_one_group(costs: list[int], num_ranks: int) -> None:
    loads = [sum(costs[i] for i in share) for share in split_groups(costs, num_ranks)]
    assert max(loads) - min(loads) <= max(costs)


def test_shares_by_hand() -> None:
    # 9 | 8, then 5 to the 8, 4 to the 9, 1 to whoever has 13 first
    assert split_groups([5, 9, 1, 8, 4], 2) == [[1, 2, 4], [0, 3]]


def test_with_enough_groups_every_rank_works() -> None:
    assert all(split_groups([7] * 4, 4))


shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), max_size=6)


@given(shapes, st.integers(1, 8), st.integers(1, 60))
def test_every_completion_keeps_its_place_and_content(
    lengths: list[list[int]], max_rows: int, max_tokens: int
) -> None:
    groups = train_groups(lengths)
    batches = cut(groups, max_rows=max_rows, max_tokens=max_tokens)
    got = [row for batch in batches for row in rows_of(batch)]
    expected = [
        (g.prompt.prompt_token_ids, list(ids), list(logprobs), advantage)
        for g in groups
        for ids, logprobs, advantage in zip(g.token_ids, g.rollout_logprobs, g.advantages, strict=True)
    ]
    assert [(p, c, pytest.approx(lp, rel=1e-6), a) for p, c, lp, a in expected] == got


@given(shapes, st.integers(1, 8))
def test_no_pass_is_larger_than_asked(lengths: list[list[int]], max_rows: int) -> None:
    batches = cut(train_groups(lengths), max_rows=max_rows)
    assert all(1 <= len(b.advantages) <= max_rows for b in batches)


@given(shapes, st.integers(1, 8))
def test_no_pass_is_needless(lengths: list[list[int]], max_rows: int) -> None:
    batches = cut(train_groups(lengths), max_rows=max_rows)
    assert len(batches) <= sum(math.ceil(len(g) / max_rows) for g in lengths)


@given(shapes, st.integers(1, 8), st.integers(1, 60))
def test_only_a_single_completion_may_pass_the_budget(
    lengths: list[list[int]], max_rows: int, max_tokens: int
) -> None:
    batches = cut(train_groups(lengths), max_rows=max_rows, max_tokens=max_tokens)
    assert all(tokens_of(b) <= max_tokens or len(b.advantages) == 1 for b in batches)


@given(shapes, st.integers(1, 8), st.integers(1, 60))
def test_two_neighbouring_passes_would_not_fit_into_one(
    lengths: list[list[int]], max_rows: int, max_tokens: int
) -> None:
    groups = train_groups(lengths)
    batches = cut(groups, max_rows=max_rows, max_tokens=max_tokens)
    for one, other in itertools.pairwise(batches):
        prompts = {
            p.prompt_token_ids: len(p.prompt_token_ids) for p in (*one.tokens.prompts, *other.tokens.prompts)
        }
        rows = len(one.advantages) + len(other.advantages)
        longest = max(one.tokens.targets.shape[1], other.tokens.targets.shape[1])
        if other.tokens.prompts[0] is one.tokens.prompts[-1]:
            # a cut: even one row more would have been too much for the part before
            rows, longest = (
                len(one.advantages) + 1,
                max(one.tokens.targets.shape[1], int(other.tokens.mask[0].sum())),
            )
            prompts = {p.prompt_token_ids: len(p.prompt_token_ids) for p in one.tokens.prompts}
        elif len(other.tokens.prompts) > 1:
            # the first group of the later pass was too much already
            first = groups[[g.prompt for g in groups].index(other.tokens.prompts[0])]
            prompts = {p.prompt_token_ids: len(p.prompt_token_ids) for p in (*one.tokens.prompts, first.prompt)}
            rows = len(one.advantages) + len(first.token_ids)
            longest = max(one.tokens.targets.shape[1], max(map(len, first.token_ids)))
        total = len(prompts) * max(prompts.values()) + rows * longest
        assert rows > max_rows or total > max_tokens


def test_a_prompt_counts_once_for_its_group_and_again_for_each_part_of_a_cut() -> None:
    (group,) = train_groups([[4, 4, 4, 4]])
    group = replace(group, prompt=text_prompt([7] * 10))
    # 10 + 4 x 4
    assert [len(b.advantages) for b in cut([group], max_tokens=26)] == [4]
    assert [len(b.advantages) for b in cut([group], max_tokens=25)] == [3, 1]
    assert [len(b.advantages) for b in cut([group], max_tokens=18)] == [2, 2]
    assert [len(b.advantages) for b in cut([group], max_tokens=1)] == [1, 1, 1, 1]
    assert token_cost(10, [4, 4, 4, 4]) == 26


def test_whole_groups_share_a_pass() -> None:
    batches = cut(train_groups([[1, 1], [2, 2], [3]]), max_rows=4)
    assert [len(b.advantages) for b in batches] == [4, 1]
    assert [len(b.tokens.prompts) for b in batches] == [2, 1]


def test_padding_is_marked_and_holds_nothing() -> None:
    batch = cut(train_groups([[2], [4]]), max_rows=2)[0]
    # prompts of 1 and 2 tokens, completions of 2 and 4
    assert batch.tokens.prompt_ids.tolist() == [[1, PAD], [2, 2]]
    assert batch.tokens.prompt_mask.tolist() == [[1, 0], [1, 1]]
    assert batch.tokens.targets.tolist() == [[100, 101, PAD, PAD], [102, 103, 104, 105]]
    assert batch.tokens.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.rollout_logprobs[0, 2:].tolist() == [0.0, 0.0]
    assert batch.tokens.num_tokens == 6


def test_an_empty_pass_is_one_row_of_padding() -> None:
    batch = empty_micro_batch(pad_token_id=9, device="cpu")
    assert batch.is_empty
    assert (batch.tokens.prompt_ids.tolist(), batch.tokens.targets.tolist()) == ([[9, 9]], [[9]])
    assert batch.advantages.tolist() == [0.0]
    assert batch.rollout_logprobs.tolist() == [[0.0]]
    assert not batch.tokens.prompts[0].placeholders


def test_a_trained_group_has_the_advantages_of_its_rewards() -> None:
    group = make_group([1.0, 0.0, 0.0], lengths=[2, 1, 3])
    prompt = text_prompt([4, 5])
    got = train_group(group, prompt)
    std = math.sqrt(1 / 3)
    assert got.advantages == pytest.approx((2 / 3 / (std + 1e-4), *[-1 / 3 / (std + 1e-4)] * 2), rel=1e-6)
    assert got.token_ids == ((1, 2), (3,), (4, 5, 6))
    assert got.rollout_logprobs == tuple(s.completion.rollout_logprobs for s in group.samples)
    assert got.prompt is prompt


def test_a_group_of_equal_rewards_trains_nothing() -> None:
    assert train_group(make_group([0.7] * 8), text_prompt([1])).advantages == (0.0,) * 8


def test_tensors_have_the_types_of_their_documentation() -> None:
    batch = cut(train_groups([[1, 2]]), max_rows=2)[0]
    assert (batch.advantages.dtype, batch.rollout_logprobs.dtype) == (torch.float32, torch.float32)
    assert (batch.tokens.prompt_ids.dtype, batch.tokens.mask.dtype) == (torch.int64, torch.float32)
