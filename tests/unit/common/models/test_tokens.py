"""Prompts and completions in padded rows, against a loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.models.tokens import pack_tokens
from tests.support.builders import text_prompt

PAD = 99
tokens = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_every_token_stands_once_beside_its_prompt(groups: list[tuple[list[int], list[list[int]]]]) -> None:
    prompts = [text_prompt(p) for p, _ in groups]
    batch = pack_tokens(prompts, [cs for _, cs in groups], pad_token_id=PAD)
    for index, (prompt, _) in enumerate(groups):
        assert_padded(batch.prompt_ids[index].tolist(), batch.prompt_mask[index].tolist(), prompt)
    rows = [(index, c) for index, (_, completions) in enumerate(groups) for c in completions]
    assert batch.prompt_of_row.tolist() == [index for index, _ in rows]
    assert len(batch.targets) == len(batch.mask) == len(rows)
    for row, (_, completion) in enumerate(rows):
        assert_padded(batch.targets[row].tolist(), batch.mask[row].tolist(), completion)
    assert batch.num_tokens == sum(len(c) for _, c in rows)


def assert_padded(ids: list[int], mask: list[float], expected: list[int]) -> None:
    """The tokens, then padding that the mask leaves out."""
    padding = len(ids) - len(expected)
    assert ids == [*expected, *[PAD] * padding]
    assert mask == [*[1] * len(expected), *[0] * padding]


def test_padding_is_as_wide_as_the_longest_row() -> None:
    batch = pack_tokens([text_prompt([1, 2, 3]), text_prompt([4])], [[[5]], [[6, 7]]], pad_token_id=PAD)
    assert batch.prompt_ids.tolist() == [[1, 2, 3], [4, PAD, PAD]]
    assert batch.targets.tolist() == [[5, PAD], [6, 7]]


def test_an_empty_completion_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="a completion must hold a token"):
        pack_tokens([text_prompt([1])], [[[]]], pad_token_id=PAD)
