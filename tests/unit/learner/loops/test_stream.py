"""The prompt stream: every record once per epoch, the same again from a cursor, seeds that never meet."""

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from common.types import Draw
from learner.loops.stream import PromptStream, group_seed
from tests.support.builders import make_draw, make_record


def stream_of(num_records: int, *, seed: int = 0, cursor: int = 0) -> PromptStream:
    """Over `clip-0`, `clip-1`, ..."""
    return PromptStream([make_record(f"clip-{i}") for i in range(num_records)], seed=seed, cursor=cursor)


def drawn(stream: PromptStream, count: int) -> list[Draw]:
    """The next draws."""
    return [stream.next() for _ in range(count)]


@given(st.integers(1, 12), st.integers(0, 99), st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_every_record_comes_once_per_epoch(num_records: int, seed: int, takes: list[int]) -> None:
    stream = stream_of(num_records, seed=seed)
    draws = [stream.next() for count in takes for _ in range(count)]
    assert stream.cursor == len(draws) == sum(takes)
    for epoch in range(len(draws) // num_records):
        part = draws[epoch * num_records : (epoch + 1) * num_records]
        assert {d.epoch for d in part} == {epoch}
        assert sorted(d.record.prompt_id for d in part) == sorted(f"clip-{i}" for i in range(num_records))
    assert len({d.key for d in draws}) == len(draws)
    assert [d.position for d in draws] == list(range(len(draws)))


@given(st.integers(1, 12), st.integers(0, 99), st.integers(0, 40), st.integers(0, 20))
def test_a_cursor_is_the_whole_position(num_records: int, seed: int, cursor: int, count: int) -> None:
    whole = stream_of(num_records, seed=seed)
    for _ in range(cursor):
        whole.next()
    resumed = stream_of(num_records, seed=seed, cursor=cursor)
    assert drawn(resumed, count) == drawn(whole, count)
    assert resumed.cursor == cursor + count


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> tuple[str, ...]:
        return tuple(d.record.prompt_id for d in drawn(stream_of(10, seed=seed, cursor=10 * epoch), 10))

    orders = {order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_stream_is_as_long_as_its_corpus() -> None:
    assert len(stream_of(7)) == 7


def test_the_records_given_are_not_shuffled() -> None:
    records = [make_record(f"clip-{i}") for i in range(9)]
    before = list(records)
    drawn(PromptStream(records, seed=3), 9)
    assert records == before


def test_a_seed_is_that_of_its_draw_and_no_other() -> None:
    draws = [
        make_draw(f"clip-{i}", epoch=epoch, draw=draw) for i in range(20) for epoch in range(5) for draw in range(3)
    ]
    seeds = [group_seed(run, d) for run in range(2) for d in draws]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [group_seed(run, d) for run in range(2) for d in draws]
    assert all(0 <= s < 2**62 for s in seeds)
    # completion i samples with seed + i: groups of 64 never meet
    ordered = sorted(seeds)
    assert min(b - a for a, b in itertools.pairwise(ordered)) > 64
    # a hash fills its range
    assert max(seeds) > 2**61
    assert min(seeds) < 2**59


def test_a_seed_is_the_same_in_every_process() -> None:
    # from blake3's reference implementation: b3sum of "7/0/clip-0/0", first 8 bytes, little-endian
    import blake3

    expected = int.from_bytes(blake3.blake3(b"7/0/clip-0/0").digest()[:8], "little") % 2**62
    assert group_seed(7, make_draw("clip-0")) == expected


@given(st.integers(1, 12), st.integers(0, 99), st.integers(0, 30), st.integers(0, 10))
def test_a_peek_is_what_comes_and_takes_nothing(num_records: int, seed: int, cursor: int, count: int) -> None:
    stream = stream_of(num_records, seed=seed, cursor=cursor)
    peeked = stream.peek(count)
    assert stream.cursor == cursor
    assert [d.record for d in drawn(stream, count)] == peeked


@given(st.integers(1, 12), st.integers(0, 99), st.integers(1, 30), st.data())
def test_what_had_no_fate_is_asked_again_as_the_same_draws(
    num_records: int, seed: int, count: int, data: st.DataObject
) -> None:
    before = stream_of(num_records, seed=seed)
    given_out = drawn(before, count)
    chosen = data.draw(st.lists(st.sampled_from(given_out), unique_by=lambda d: d.position))
    resumed = stream_of(num_records, seed=seed, cursor=before.cursor)
    resumed.ask_again([(d.position, d.draw) for d in chosen])
    again = drawn(resumed, len(chosen))
    assert again == chosen
    assert [group_seed(seed, d) for d in again] == [group_seed(seed, d) for d in chosen]
    assert resumed.cursor == before.cursor
    # and then it goes on where it was
    assert resumed.next() == before.next()


def test_a_redraw_is_the_same_prompt_with_another_seed_and_comes_first() -> None:
    stream = stream_of(5)
    first = stream.next()
    stream.redraw(first)
    again = stream.next()
    assert (again.record, again.epoch, again.position, again.draw) == (first.record, 0, 0, 1)
    assert group_seed(0, again) != group_seed(0, first)
    assert stream.cursor == 1
    assert stream.next().position == 1


def test_a_redraw_survives_a_resume_with_its_number() -> None:
    redrawn = replace(stream_of(4, seed=2, cursor=6).next(), draw=2)
    resumed = stream_of(4, seed=2, cursor=7)
    resumed.ask_again([(6, 2)])
    assert resumed.next() == redrawn
    assert resumed.next().position == 7
