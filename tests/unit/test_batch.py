"""Groups cut into shares and passes: nothing lost, nothing twice, nothing out of place."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.batch import MicroBatch, TrainGroup, empty_micro_batch, micro_batches, split_groups, train_group
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


@given(shapes, st.integers(1, 8))
def test_every_completion_keeps_its_place_and_content(lengths: list[list[int]], max_rows: int) -> None:
    groups = train_groups(lengths)
    batches = micro_batches(groups, max_rows=max_rows, pad_token_id=PAD, device="cpu")
    got = [row for batch in batches for row in rows_of(batch)]
    expected = [
        (g.prompt.prompt_token_ids, list(ids), list(logprobs), advantage)
        for g in groups
        for ids, logprobs, advantage in zip(g.token_ids, g.rollout_logprobs, g.advantages, strict=True)
    ]
    assert [(p, c, pytest.approx(lp, rel=1e-6), a) for p, c, lp, a in expected] == got


@given(shapes, st.integers(1, 8))
def test_no_pass_is_larger_than_asked(lengths: list[list[int]], max_rows: int) -> None:
    batches = micro_batches(train_groups(lengths), max_rows=max_rows, pad_token_id=PAD, device="cpu")
    assert all(1 <= len(b.advantages) <= max_rows for b in batches)


@given(shapes, st.integers(1, 8))
def test_no_pass_is_needless(lengths: list[list[int]], max_rows: int) -> None:
    batches = micro_batches(train_groups(lengths), max_rows=max_rows, pad_token_id=PAD, device="cpu")
    assert len(batches) <= sum(math.ceil(len(g) / max_rows) for g in lengths)


def test_whole_groups_share_a_pass() -> None:
    batches = micro_batches(train_groups([[1, 1], [2, 2], [3]]), max_rows=4, pad_token_id=PAD, device="cpu")
    assert [len(b.advantages) for b in batches] == [4, 1]
    assert [len(b.tokens.prompts) for b in batches] == [2, 1]


def test_padding_is_marked_and_holds_nothing() -> None:
    batch = micro_batches(train_groups([[2], [4]]), max_rows=2, pad_token_id=PAD, device="cpu")[0]
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
    assert got.num_tokens == 6
    assert got.prompt is prompt


def test_a_group_of_equal_rewards_trains_nothing() -> None:
    assert train_group(make_group([0.7] * 8), text_prompt([1])).advantages == (0.0,) * 8


def test_tensors_have_the_types_of_their_documentation() -> None:
    batch = micro_batches(train_groups([[1, 2]]), max_rows=2, pad_token_id=PAD, device="cpu")[0]
    assert (batch.advantages.dtype, batch.rollout_logprobs.dtype) == (torch.float32, torch.float32)
    assert (batch.tokens.prompt_ids.dtype, batch.tokens.mask.dtype) == (torch.int64, torch.float32)
