"""Whose turn it is: the least work first, the clip's last engine when about equal, ties in turn."""

from rollout.fleet.router import Load, choose


def loads(*numbers: int, limit: int = 12) -> list[Load]:
    """Engines `a`, `b`, ... with so many sequences."""
    return [Load(name="abcdef"[i], num_sequences=number, limit=limit) for i, number in enumerate(numbers)]


def name_of(load: Load | None) -> str | None:
    return None if load is None else load.name


def test_the_engine_with_the_least_work_is_chosen() -> None:
    assert name_of(choose(loads(8, 4, 8), num_sequences=4, previous=None, turn=0)) == "b"


def test_ties_go_round() -> None:
    assert [name_of(choose(loads(4, 4, 4), num_sequences=4, previous=None, turn=t)) for t in range(4)] == [*"abca"]


def test_a_clip_returns_to_its_engine_when_that_has_hardly_more_to_do() -> None:
    assert name_of(choose(loads(0, 4), num_sequences=4, previous="b", turn=0)) == "b"
    assert name_of(choose(loads(0, 5), num_sequences=4, previous="b", turn=0)) == "a"


def test_no_engine_is_chosen_above_its_limit() -> None:
    assert choose(loads(12, 9), num_sequences=4, previous=None, turn=0) is None
    assert name_of(choose(loads(12, 8), num_sequences=4, previous="a", turn=0)) == "b"


def test_a_request_above_the_limit_gets_an_idle_engine() -> None:
    assert name_of(choose(loads(1, 0), num_sequences=40, previous=None, turn=0)) == "b"
    assert choose(loads(1, 1), num_sequences=40, previous=None, turn=0) is None
