"""Which hidden state predicts which token, against a loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.tokens import pack_tokens
from tests.support.builders import text_prompt

PAD = 99
tokens = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_every_token_is_predicted_from_the_one_before_it(groups: list[tuple[list[int], list[list[int]]]]) -> None:
    prompts = [text_prompt(p) for p, _ in groups]
    batch = pack_tokens(prompts, [cs for _, cs in groups], pad_token_id=PAD)
    row = 0
    for index, (prompt, completions) in enumerate(groups):
        for completion in completions:
            sequence = [*prompt, *completion]
            assert int(batch.prompt_of_row[row]) == index
            for position, token in enumerate(batch.input_ids[row].tolist()):
                inside = position < len(sequence)
                assert token == (sequence[position] if inside else PAD)
                assert int(batch.attention_mask[row, position]) == inside
            for step in range(batch.targets.shape[1]):
                inside = step < len(completion)
                assert float(batch.mask[row, step]) == inside
                if inside:
                    source = int(batch.predicting[row, step])
                    assert source == len(prompt) - 1 + step
                    assert sequence[source + 1] == int(batch.targets[row, step]) == completion[step]
            row += 1
    assert row == len(batch.input_ids)
    assert batch.num_tokens == sum(len(c) for _, cs in groups for c in cs)


def test_padding_is_as_wide_as_the_longest_row() -> None:
    batch = pack_tokens([text_prompt([1, 2, 3]), text_prompt([4])], [[[5]], [[6, 7]]], pad_token_id=PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 5], [4, 6, 7, PAD]]
    assert batch.targets.tolist() == [[5, PAD], [6, 7]]
    assert batch.predicting.tolist() == [[2, 0], [0, 1]]


def test_an_empty_completion_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="a completion must hold a token"):
        pack_tokens([text_prompt([1])], [[[]]], pad_token_id=PAD)
