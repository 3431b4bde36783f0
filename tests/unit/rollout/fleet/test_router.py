"""Whose turn it is: the least work first, the clip's last engine when about equal, ties in turn."""

from rollout.fleet.router import Router


def router_of(*numbers: int, limit: int = 12) -> Router:
    """Open engines `a`, `b`, ... with so many sequences."""
    router = Router(limit=limit)
    for name, number in zip("abcdef", numbers, strict=False):
        router.open(name)
        router.add(name, number)
    return router


def test_the_engine_with_the_least_work_is_chosen() -> None:
    assert router_of(8, 4, 8).choose(num_sequences=4) == "b"


def test_ties_go_round() -> None:
    router, chosen = router_of(0, 0, 0), ""
    for _ in range(7):
        name = router.choose(num_sequences=4)
        assert name is not None
        # an answer at once, as of an engine that fails fast
        router.add(name, 4)
        router.add(name, -4)
        chosen += name
    assert chosen == "abcabca"


def test_a_clip_returns_to_its_engine_when_that_has_hardly_more_to_do() -> None:
    assert router_of(0, 4).choose(num_sequences=4, previous="b") == "b"
    assert router_of(0, 5).choose(num_sequences=4, previous="b") == "a"


def test_a_clip_whose_engine_is_gone_or_closed_goes_to_another() -> None:
    router = router_of(4, 4)
    router.close("b")
    assert router.choose(num_sequences=4, previous="b") == "a"
    router.remove("b")
    assert router.choose(num_sequences=4, previous="b") == "a"


def test_no_engine_is_chosen_above_its_limit() -> None:
    assert router_of(12, 9).choose(num_sequences=4) is None
    assert router_of(12, 8).choose(num_sequences=4, previous="a") == "b"


def test_a_request_above_the_limit_gets_an_idle_engine() -> None:
    assert router_of(1, 0).choose(num_sequences=40) == "b"
    assert router_of(1, 1).choose(num_sequences=40) is None


def test_the_requests_of_a_closed_engine_still_count() -> None:
    router = router_of(8)
    router.close("a")
    router.add("a", -4)
    assert router.choose(num_sequences=4) is None
    router.open("a")
    assert router.num_sequences("a") == 4
    assert router.choose(num_sequences=8) == "a"
    assert router.choose(num_sequences=9) is None
