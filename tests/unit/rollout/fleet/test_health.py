"""When an engine hangs: after a silence that is longer than its steps explain, and never during its warm-up."""

from rollout.fleet.health import MIN_SILENCE_S, EngineHealth


def warm(*, longest_step_s: float = 0.5) -> EngineHealth:
    """An engine whose warm-up ended at 0."""
    health = EngineHealth()
    health.warmed_up(0.0, longest_step_s=longest_step_s)
    return health


def test_an_engine_hangs_after_a_silence_and_not_before() -> None:
    health = warm()
    assert not health.hangs(MIN_SILENCE_S)
    assert health.hangs(MIN_SILENCE_S + 0.1)


def test_an_engine_that_warms_up_never_hangs() -> None:
    health = EngineHealth()
    health.answered(1.0)
    health.stepped(2.0, num_steps=1, longest_step_s=0.0)
    assert not health.hangs(1e6)


def test_either_sign_of_life_is_enough() -> None:
    answering, working = warm(), warm()
    for second in range(1, 200):
        answering.answered(float(second))
        working.stepped(float(second), num_steps=second, longest_step_s=0.0)
        assert not answering.hangs(second + 1.0)
        assert not working.hangs(second + 1.0)


def test_a_heartbeat_of_an_actor_whose_work_stands_still_is_no_step() -> None:
    health = warm()
    for second in range(1, 40):
        health.stepped(float(second), num_steps=0, longest_step_s=0.0)
    assert health.hangs(40.0)


def test_a_slow_engine_is_not_condemned_for_a_step_of_forty_seconds() -> None:
    slow = warm(longest_step_s=40.0)
    assert not slow.hangs(40.0 + 1.0)
    # five of its steps
    assert not slow.hangs(200.0)
    assert slow.hangs(200.1)


def test_time_in_which_nobody_looked_is_no_silence_and_no_step() -> None:
    health = warm()
    health.stepped(1.0, num_steps=1, longest_step_s=0.0)
    health.unwatched(1000.0)
    assert not health.hangs(1000.0 + MIN_SILENCE_S)
    health.stepped(1002.0, num_steps=2, longest_step_s=0.0)
    assert health.hangs(1002.0 + MIN_SILENCE_S + 0.1)


def test_a_step_that_is_longer_than_the_warm_ups_raises_the_limit() -> None:
    health = warm(longest_step_s=1.0)
    health.stepped(25.0, num_steps=1, longest_step_s=20.0)
    assert health.max_silence_s == 100.0


def test_time_between_two_readings_is_no_step() -> None:
    health = warm(longest_step_s=1.0)
    health.stepped(1.0, num_steps=1, longest_step_s=1.0)
    # an idle hour, or a pause for a publish
    health.stepped(3600.0, num_steps=2, longest_step_s=1.0)
    assert health.max_silence_s == MIN_SILENCE_S
